/* A load generator that understands server-sent events. One thread, epoll, keep-alive, 127.0.0.1 only.
 *
 * Usage: load_client PORT PATH CONCURRENCY REQUESTS WARMUP MAX_SECONDS BODY_FILE
 *
 * Sends the same POST over and over on CONCURRENCY connections until WARMUP + REQUESTS have been started or MAX_SECONDS
 * are over, and prints one line of JSON. Times are microseconds. "tokens" are the stamped tokens of mock_upstream that
 * arrived, "lag" how long each had been under way; "events" are "data: " lines, of streams that did not end too.
 * Warm-up requests count in "sent" only. Streams still open 8 s after MAX_SECONDS are given up ("unfinished").
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_SIZE = 16384, READ_SIZE = 262144, TOKENS_MAX = 260, GRACE_S = 8 };
enum Part { IDLE, HEAD, BODY };
enum ChunkPart { SIZE, DATA, DATA_END, TRAILER };

typedef struct {
    int fd;
    enum Part part;
    long long begun, first; /* when the request was sent, when its first text came */
    char head[HEAD_SIZE];
    int head_len, status, chunked, close_after, warm;
    long long left; /* bytes of the body still to come; -1 unknown */
    enum ChunkPart chunk_part;
    long long chunk_left;
    int data_match;              /* how much of "data: " has matched */
    int key_match, in_content;   /* how much of "\"content\":" has matched, whether its value is being read */
    int mark_match, digits;      /* how much of "zqx" has matched, letters of the stamp read */
    long long stamp;
    int events;
} Conn;

typedef struct {
    long long *at;
    long n, cap;
} Sample;

static Sample latency, first_text, lag;
static char *request, error[300];
static int request_len, port, poller, started, failed, total, warmup;
static long events, tokens, sent;
static long long begun, deadline;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void note(Sample *s, long long ns) {
    if (s->n < s->cap) s->at[s->n++] = ns;
}

static int by_size(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

/* The p-th quantile in microseconds; -1 when nothing was measured. */
static double quantile(const Sample *s, double p) { return s->n ? s->at[(long)(p * (s->n - 1) + .5)] / 1000.0 : -1; }

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (void *)&to, sizeof to)) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* Send the next request on this connection; 0 when there is none to send or it cannot be sent. */
static int start(Conn *c) {
    if (started >= total + warmup || now_ns() > deadline) return 0;
    int fd = c->fd;
    memset(c, 0, sizeof *c);
    c->fd = fd;
    c->left = -1;
    if (fd < 0) {
        if ((c->fd = dial()) < 0) {
            failed++;
            return 0;
        }
        struct epoll_event e = {EPOLLIN, {.ptr = c}};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
    }
    c->warm = started < warmup;
    if (started++ == warmup) begun = now_ns();
    c->begun = now_ns();
    c->part = HEAD;
    for (int done = 0; done < request_len;) {
        ssize_t n = send(c->fd, request + done, (size_t)(request_len - done), MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) break; /* the read that follows will find the connection closed */
        if (n > 0) done += (int)n;
    }
    return 1;
}

static void hang_up(Conn *c) {
    close(c->fd);
    c->fd = -1;
    c->part = IDLE;
}

static void finish(Conn *c, long long at) {
    sent++;
    if (c->status != 200) failed++;
    else if (!c->warm) {
        note(&latency, at - c->begun);
        if (c->first) note(&first_text, c->first - c->begun);
    }
    if (c->close_after) hang_up(c);
    c->part = IDLE;
}

/* A character of the answer's text: read the stamps, which a proxy may cut in two and send in two events. */
static void hear(Conn *c, char ch, long long at) {
    static const char mark[] = "zqx";
    if (c->mark_match < 3) {
        c->mark_match = ch == mark[c->mark_match] ? c->mark_match + 1 : ch == 'z';
        c->digits = 0;
        c->stamp = 0;
    } else if (ch < 'a' || ch > 'p') {
        c->mark_match = 0;
    } else {
        c->stamp = c->stamp << 4 | (ch - 'a');
        if (++c->digits < 12) return;
        c->mark_match = 0;
        if (!c->first) c->first = at;
        if (c->warm) return;
        tokens++;
        note(&lag, (at & 0xffffffffffffLL) - c->stamp);
    }
}

/* Read bytes of the body: count events, find the text. The mock upstream's text has neither quotes nor escapes. */
static void see(Conn *c, const char *p, long long n, long long at) {
    static const char data[] = "data: ", key[] = "\"content\":";
    for (long long i = 0; i < n; i++) {
        char ch = p[i];
        if (c->in_content) {
            if (ch == '"') c->in_content = 0;
            else hear(c, ch, at);
            continue;
        }
        c->data_match = ch == data[c->data_match] ? c->data_match + 1 : ch == 'd';
        if (c->data_match == 6) {
            c->data_match = 0;
            c->events++;
            events += !c->warm;
        }
        if (c->key_match == sizeof key - 1) {
            if (ch == ' ') continue;
            c->in_content = ch == '"'; /* else it is null */
            c->key_match = 0;
        } else c->key_match = ch == key[c->key_match] ? c->key_match + 1 : ch == '"';
    }
    if (!c->first && c->events >= 2) c->first = at; /* the first event names the role, the second has text */
}

/* Read bytes of the body; 1 when it is complete. */
static int take(Conn *c, const char *p, long long n, long long at) {
    if (!c->chunked) {
        if (c->left >= 0 && n > c->left) n = c->left;
        see(c, p, n, at);
        if (c->left < 0) return 0;
        return (c->left -= n) == 0;
    }
    while (n > 0) {
        if (c->chunk_part == DATA) {
            long long k = n < c->chunk_left ? n : c->chunk_left;
            see(c, p, k, at);
            p += k;
            n -= k;
            if (!(c->chunk_left -= k)) c->chunk_part = DATA_END;
            continue;
        }
        char ch = *p++;
        n--;
        if (c->chunk_part == SIZE) {
            if (ch == '\n') c->chunk_part = c->chunk_left ? DATA : TRAILER;
            else if (ch != '\r') c->chunk_left = c->chunk_left * 16 + (ch <= '9' ? ch - '0' : (ch | 32) - 'a' + 10);
        } else if (ch == '\n') {
            if (c->chunk_part == TRAILER) return 1;
            c->chunk_part = SIZE;
        }
    }
    return 0;
}

/* Take what came over the wire; 1 when the response is complete. */
static int feed(Conn *c, const char *p, long long n, long long at) {
    if (c->part == BODY) return take(c, p, n, at);
    int had = c->head_len, room = HEAD_SIZE - 1 - had;
    memcpy(c->head + had, p, (size_t)(n < room ? n : room));
    c->head_len += (int)(n < room ? n : room);
    c->head[c->head_len] = 0;
    char *end = memmem(c->head, (size_t)c->head_len, "\r\n\r\n", 4);
    if (!end) return 0;
    c->status = atoi(c->head + 9);
    for (char *q = c->head; q < end; q++) {
        if (*q != '\n') continue;
        if (!strncasecmp(q + 1, "content-length:", 15)) c->left = atoll(q + 16);
        else if (!strncasecmp(q + 1, "transfer-encoding:", 18)) c->chunked = 1;
        else if (!strncasecmp(q + 1, "connection: close", 17)) c->close_after = 1;
    }
    c->part = BODY;
    long long skip = end - c->head + 4 - had;
    if (c->status != 200 && !*error) snprintf(error, sizeof error, "%d %.*s", c->status, (int)(n - skip < 150 ? n - skip : 150), p + skip);
    if (c->left == 0) return 1;
    return n > skip && take(c, p + skip, n - skip, at);
}

static void make_request(char **argv) {
    static char body[1 << 20];
    FILE *f = fopen(argv[7], "rb");
    if (!f) perror(argv[7]), exit(2);
    size_t n = fread(body, 1, sizeof body, f);
    fclose(f);
    request = malloc(n + 4096);
    request_len = sprintf(request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: */*\r\n"
                                   "Authorization: Bearer sk-1234\r\nContent-Length: %zu\r\n\r\n", argv[2], port, n);
    memcpy(request + request_len, body, n);
    request_len += (int)n;
}

int main(int argc, char **argv) {
    if (argc != 8) return fprintf(stderr, "usage: %s PORT PATH CONCURRENCY REQUESTS WARMUP MAX_SECONDS BODY_FILE\n", argv[0]), 2;
    port = atoi(argv[1]);
    int concurrency = atoi(argv[3]), active = 0;
    total = atoi(argv[4]);
    warmup = atoi(argv[5]);
    make_request(argv);
    latency.cap = first_text.cap = total + 1;
    lag.cap = (long)(total + 1) * TOKENS_MAX;
    latency.at = malloc(sizeof(long long) * (size_t)latency.cap);
    first_text.at = malloc(sizeof(long long) * (size_t)first_text.cap);
    lag.at = malloc(sizeof(long long) * (size_t)lag.cap);
    poller = epoll_create1(0);
    deadline = now_ns() + (long long)(atof(argv[6]) * 1e9);
    begun = now_ns();
    Conn *conns = calloc((size_t)concurrency, sizeof *conns);
    for (int i = 0; i < concurrency; i++) {
        conns[i].fd = -1;
        active += start(&conns[i]);
    }
    static char buffer[READ_SIZE];
    long long ended = begun;
    while (active > 0 && now_ns() < deadline + GRACE_S * 1000000000LL) {
        struct epoll_event ready[256];
        int n = epoll_wait(poller, ready, 256, 500);
        for (int i = 0; i < n; i++) {
            Conn *c = ready[i].data.ptr;
            if (c->fd < 0) continue;
            ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
            long long at = now_ns();
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) {
                if (c->part == BODY && !c->chunked && c->left < 0) finish(c, at); /* a body that ends with its connection */
                else if (c->part != IDLE) failed++;
                if (c->fd >= 0) hang_up(c);
            } else if (feed(c, buffer, got, at)) finish(c, at);
            else continue;
            ended = at;
            if (!start(c)) active--;
        }
    }
    int unfinished = 0;
    for (int i = 0; i < concurrency; i++) unfinished += conns[i].part != IDLE;
    if (unfinished) ended = now_ns();
    double seconds = (ended - begun) / 1e9;
    qsort(latency.at, (size_t)latency.n, sizeof(long long), by_size);
    qsort(first_text.at, (size_t)first_text.n, sizeof(long long), by_size);
    qsort(lag.at, (size_t)lag.n, sizeof(long long), by_size);
    for (char *p = error; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < 32 || (unsigned char)*p > 126) *p = '\'';
    printf("{\"requests\":%ld,\"sent\":%ld,\"failed\":%d,\"unfinished\":%d,\"seconds\":%.4f,\"rps\":%.2f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,"
           "\"first50\":%.1f,\"first99\":%.1f,\"events\":%ld,\"tokens\":%ld,\"lag50\":%.1f,\"lag99\":%.1f,\"error\":\"%s\"}\n",
           latency.n, sent, failed, unfinished, seconds, latency.n ? latency.n / seconds : 0, quantile(&latency, .5), quantile(&latency, .9),
           quantile(&latency, .99), quantile(&first_text, .5), quantile(&first_text, .99), events, tokens, quantile(&lag, .5),
           quantile(&lag, .99), error);
    return 0;
}
