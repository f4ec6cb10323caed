"""Personal information: recognisers behind a set matcher, and presidio behind those, loaded when first needed."""
