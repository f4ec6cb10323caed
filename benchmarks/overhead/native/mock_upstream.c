/* A stand-in for a model server, quick enough never to be what is measured. Usage: mock_upstream PORT
 *
 * One thread, epoll, HTTP/1.1 with keep-alive, 127.0.0.1 only. Every GET answers a list of models. Every POST answers
 * a chat completion: about 1 KB of JSON, or with "stream": true a role chunk, 200 chunks of one token, a closing chunk
 * and [DONE], each in a send() of its own. The model's name, which any proxy passes on, chooses the kind:
 *
 *   mock         no delay, plain words
 *   mock-paced   5 ms between chunks; a token is " zqx" and 12 letters a-p, the time it was sent (CLOCK_MONOTONIC, ns,
 *                low 48 bits), so that a client on the same machine sees how long each token was under way
 *   mock-phrase  the same, with a phrase cut over tokens 100-105: " how", " to", " kab", "oom", "word", " now"
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = 4096, IN_SIZE = 262144, TOKENS = 200, PACE_NS = 5000000, PHRASE_AT = 100 };

static const char *const WORDS[] = {"the",  "a",     "model", "answer", "in",  "short", "words", "is",
                                    "that", "we",    "can",   "read",   "and", "small", "text",  "more"};
static const char *const PHRASE[] = {" how", " to", " kab", "oom", "word", " now"};
enum { PHRASE_TOKENS = sizeof PHRASE / sizeof *PHRASE };

typedef struct {
    int fd;
    char *in;
    size_t in_len;
    char *out;
    size_t out_len, out_sent, out_cap;
    int streaming, paced, phrase;
    int next;      /* the chunk that comes next */
    long long due; /* when, for a paced stream */
} Conn;

static Conn *conns[MAX_FDS];
static int max_fd, poller;
static char answer[4096];
static size_t answer_len;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static const char *word(int i) { return WORDS[(i * 7 + i / 5) % 16]; }

static void put(Conn *c, const char *data, size_t n) {
    if (c->out_len + n > c->out_cap) {
        c->out_cap = (c->out_len + n) * 2;
        c->out = realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, data, n);
    c->out_len += n;
}

static void drop(Conn *c) {
    conns[c->fd] = NULL;
    close(c->fd); /* takes it out of the poller too */
    free(c->in);
    free(c->out);
    free(c);
}

static void watch(Conn *c, int op, unsigned events) {
    struct epoll_event e = {events, {.fd = c->fd}};
    epoll_ctl(poller, op, c->fd, &e);
}

/* 1 all sent, 0 the socket is full (the poller will say when it is not), -1 the peer has gone */
static int flush(Conn *c) {
    while (c->out_sent < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) return -1;
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return 0;
        }
        c->out_sent += (size_t)n;
    }
    c->out_len = c->out_sent = 0;
    return 1;
}

static void make_answer(void) {
    char body[3000];
    int n = sprintf(body, "{\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion\",\"created\":1700000000,"
                          "\"model\":\"mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"");
    for (int i = 0; i < 160; i++) n += sprintf(body + n, "%s%s", i ? " " : "", word(i));
    n += sprintf(body + n, "\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":50,"
                           "\"completion_tokens\":200,\"total_tokens\":250},\"system_fingerprint\":\"fp_mock\"}");
    answer_len = (size_t)sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", n, body);
}

static void token(const Conn *c, int i, char *out) {
    if (c->phrase && i >= PHRASE_AT && i < PHRASE_AT + PHRASE_TOKENS) {
        strcpy(out, PHRASE[i - PHRASE_AT]);
    } else if (c->paced) {
        long long t = now_ns();
        strcpy(out, " zqx");
        for (int k = 0; k < 12; k++) out[4 + k] = (char)('a' + ((t >> (44 - 4 * k)) & 15));
        out[16] = 0;
    } else {
        sprintf(out, "%s%s", i > 1 ? " " : "", word(i));
    }
}

/* Queue the stream's next chunk; the last one ends the response. */
static void next_chunk(Conn *c) {
    char event[512], chunk[640], text[64];
    int i = c->next++, n;
    const char *delta = "{}", *finish = "null";
    char filled[128];
    if (i <= TOKENS + 1) {
        if (i == 0) delta = "{\"role\":\"assistant\",\"content\":\"\"}";
        else if (i <= TOKENS) {
            token(c, i, text);
            sprintf(filled, "{\"content\":\"%s\"}", text);
            delta = filled;
        } else finish = "\"stop\"";
        n = sprintf(event, "data: {\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                           "\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":%s,\"finish_reason\":%s}]}\n\n", delta, finish);
    } else {
        n = sprintf(event, "data: [DONE]\n\n");
        c->streaming = 0;
    }
    n = sprintf(chunk, "%x\r\n%s\r\n%s", n, event, c->streaming ? "" : "0\r\n\r\n");
    put(c, chunk, (size_t)n);
}

/* Send what may be sent now. -1: the peer has gone. */
static int pump(Conn *c) {
    int sent = flush(c);
    while (sent > 0 && c->streaming && (!c->paced || now_ns() >= c->due)) {
        next_chunk(c);
        c->due += PACE_NS;
        sent = flush(c);
    }
    return sent < 0 ? -1 : 0;
}

static int says_stream(const char *body, size_t n) {
    const char *p = memmem(body, n, "\"stream\"", 8);
    if (!p) return 0;
    for (p += 8; *p == ':' || *p == ' '; p++) {}
    return *p == 't';
}

/* Answer every whole request in the input buffer. -1: the peer has gone. */
static int serve(Conn *c) {
    while (!c->streaming && c->in_len) {
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!end) return 0;
        size_t head = (size_t)(end - c->in) + 4, length = 0, whole;
        int chunked = 0;
        for (char *p = c->in; p < end; p++) {
            if (*p != '\n') continue;
            if (!strncasecmp(p + 1, "content-length:", 15)) length = strtoul(p + 16, NULL, 10);
            else if (!strncasecmp(p + 1, "transfer-encoding: chunked", 26)) chunked = 1;
        }
        if (chunked) { /* the body is searched, never parsed, so that its chunk sizes may stay in it */
            char *last = memmem(c->in + head - 2, c->in_len - head + 2, "\r\n0\r\n\r\n", 7);
            if (!last) return 0;
            length = last > c->in + head ? (size_t)(last - c->in) - head : 0;
            whole = (size_t)(last - c->in) + 7;
        } else whole = head + length;
        if (c->in_len < whole) return 0;
        const char *body = c->in + head;
        if (c->in[0] == 'G') {
            static const char list[] = "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"mock\"}]}";
            char out[400];
            int n = sprintf(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", sizeof list - 1, list);
            put(c, out, (size_t)n);
        } else if (says_stream(body, length)) {
            static const char headers[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
            c->phrase = memmem(body, length, "mock-phrase", 11) != NULL;
            c->paced = c->phrase || memmem(body, length, "mock-paced", 10) != NULL;
            c->streaming = 1;
            c->next = 0;
            c->due = now_ns();
            put(c, headers, sizeof headers - 1);
        } else put(c, answer, answer_len);
        memmove(c->in, c->in + whole, c->in_len - whole);
        c->in_len -= whole;
        if (pump(c) < 0) return -1;
    }
    return 0;
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->in = malloc(IN_SIZE + 1);
        c->out = malloc(c->out_cap = 8192);
        conns[fd] = c;
        if (fd > max_fd) max_fd = fd;
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static int readable(Conn *c) {
    ssize_t n = recv(c->fd, c->in + c->in_len, IN_SIZE - c->in_len, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return -1; /* a request larger than the buffer ends here too */
    if (n > 0) {
        c->in_len += (size_t)n;
        c->in[c->in_len] = 0;
    }
    return serve(c);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: %s PORT\n", argv[0]), 2;
    signal(SIGPIPE, SIG_IGN);
    make_answer();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 1024)) return perror(argv[1]), 1;
    poller = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {.fd = listener}};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        long long t = now_ns(), wait = -1;
        for (int i = 0; i <= max_fd; i++) {
            Conn *c = conns[i];
            if (!c || !c->streaming || !c->paced || c->out_len) continue;
            long long left = c->due > t ? c->due - t : 0;
            if (wait < 0 || left < wait) wait = left;
        }
        struct timespec timeout = {wait / 1000000000LL, wait % 1000000000LL};
        struct epoll_event ready[256];
        int n = epoll_pwait2(poller, ready, 256, wait < 0 ? NULL : &timeout, NULL);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd, gone = 0;
            if (fd == listener) {
                accept_all(listener);
                continue;
            }
            Conn *c = conns[fd];
            if (!c) continue;
            if (ready[i].events & EPOLLOUT) {
                watch(c, EPOLL_CTL_MOD, EPOLLIN);
                gone = pump(c) < 0 || serve(c) < 0;
            }
            if (!gone && ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) gone = readable(c) < 0;
            if (gone) drop(c);
        }
        t = now_ns();
        for (int i = 0; i <= max_fd; i++) {
            Conn *c = conns[i];
            if (c && c->streaming && c->paced && !c->out_len && c->due <= t && (pump(c) < 0 || serve(c) < 0)) drop(c);
        }
    }
}
