"""The classifier path: packing, the engine around a device, torch, and the same engine in another process."""
