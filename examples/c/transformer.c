/* A small GPT from scratch, which predicts each character of a text from those before,
 * trained with AdamW and with SONew side by side. Then a second run with SONew continues
 * from the checkpoint in the middle and ends with the same bits as the first, which never
 * stopped.
 *
 *    cc -std=c99 -O3 -march=native -fopenmp transformer.c -lsonew -lm -o transformer
 *    ./transformer [--steps=300] [text.txt [checkpoint.safetensors]]
 *
 * Without a text it reads this project's own documents. The network and the settings of
 * both optimizers are those of the transformer in JAX, for which they were searched in the
 * same way: docs/transformer.md. On the documents AdamW ends at 2.30, SONew at 2.07.
 */
#include <math.h>
#include <omp.h>
#include <sonew.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 64, HEADS = 4, HEAD = WIDTH / HEADS, HIDDEN = 4 * WIDTH, BLOCKS = 2,
    CONTEXT = 64, BATCH = 16, TOKENS = BATCH * CONTEXT, HELD_OUT_BATCHES = 6
};

static void check(sonew_status status) {
    if (status != SONEW_OK) {
        fprintf(stderr, "%s: %s\n", sonew_status_name(status), sonew_last_error());
        exit(1);
    }
}

static void fail(const char *what, const char *which) {
    fprintf(stderr, "%s: %s\n", which, what);
    exit(1);
}

static float uniform(unsigned *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / (1 << 23) - 1;
}

/* ---- The text: characters as numbers, the last 5% held out ---- */
static unsigned char *text;
static int length, trained_on, characters;

static void read_text(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        fail("cannot be read; name a text as the argument", path);
    const long size = ftell(file);
    rewind(file);
    text = realloc(text, (size_t)length + (size_t)size);
    if (!text || size > 1 << 28 || fread(text + length, 1, (size_t)size, file) != (size_t)size)
        fail("cannot be read", path);
    length += (int)size;
    fclose(file);
}

static void read_documents(void) {
    const char *names[] = {"method", "choosing", "state-files", "c-api", "julia-api", "guarantees"};
    const char *end = strrchr(__FILE__, '/');
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[4096];
        const int folder = end ? (int)(end + 1 - __FILE__) : 0;
        snprintf(path, sizeof path, "%.*s../../docs/%s.md", folder, __FILE__, names[i]);
        read_text(path);
    }
}

static void code_text(void) {
    int codes[256];
    memset(codes, -1, sizeof codes);
    for (int i = 0; i < length; i++) {
        if (codes[text[i]] < 0)
            codes[text[i]] = characters++;
        text[i] = (unsigned char)codes[text[i]];
    }
    trained_on = (int)(0.95 * length);
    if (length - trained_on <= CONTEXT)
        fail("the text is too short", "transformer");
    printf("%d characters, of which %d are held out\n", length, length - trained_on);
}

/* ---- The parameters: one tensor for each matrix and vector, weights [out, in] ---- */
enum {
    NORM1, NORM1_BIAS, ATTENTION, MIX, NORM2, NORM2_BIAS, UP, UP_BIAS, DOWN, DOWN_BIAS, PER_BLOCK,
    EMBEDDING = BLOCKS * PER_BLOCK, POSITIONS, LAST_NORM, LAST_BIAS, OUT, TENSORS
};

#define BLOCK(b)                                                              \
    {b ".norm1.scale", WIDTH, 0}, {b ".norm1.bias", WIDTH, 0},                 \
    {b ".attention", 3 * WIDTH, WIDTH}, {b ".mix", WIDTH, WIDTH},              \
    {b ".norm2.scale", WIDTH, 0}, {b ".norm2.bias", WIDTH, 0},                 \
    {b ".up", HIDDEN, WIDTH}, {b ".up.bias", HIDDEN, 0},                       \
    {b ".down", WIDTH, HIDDEN}, {b ".down.bias", WIDTH, 0}

/* A vector has 0 columns. How many characters there are is known with the text. */
static struct { const char *name; int rows, columns; } shapes[TENSORS] = {
    BLOCK("blocks.0"), BLOCK("blocks.1"), {"characters", 0, WIDTH}, {"positions", CONTEXT, WIDTH},
    {"norm.scale", WIDTH, 0}, {"norm.bias", WIDTH, 0}, {"head", 0, WIDTH}};

static int elements(int tensor) {
    return shapes[tensor].rows * (shapes[tensor].columns ? shapes[tensor].columns : 1);
}

/* A list of buffers, one for each tensor, in one allocation, and its length in bytes. */
static size_t allocate(float *list[TENSORS]) {
    size_t all = 0;
    for (int i = 0; i < TENSORS; i++)
        all += (size_t)elements(i);
    float *next = calloc(all, sizeof *next);
    if (!next)
        fail("out of memory", "transformer");
    for (int i = 0; i < TENSORS; i++) {
        list[i] = next;
        next += elements(i);
    }
    return all * sizeof *next;
}

static void start(float *params[TENSORS]) {
    unsigned seed = 1;
    for (int i = 0; i < TENSORS; i++) {
        const int part = i < EMBEDDING ? i % PER_BLOCK : i;
        const int is_scale = part == NORM1 || part == NORM2 || part == LAST_NORM;
        /* What adds to the residual stream is smaller the more there is of it. */
        const float gain = part == MIX || part == DOWN ? 1 / sqrtf(2 * BLOCKS) : 1;
        const float size = part == EMBEDDING || part == POSITIONS
                               ? 0.02f
                               : gain / sqrtf((float)shapes[i].columns);
        for (int k = 0; k < elements(i); k++)
            params[i][k] = shapes[i].columns ? size * sqrtf(3) * uniform(&seed) : (float)is_scale;
    }
}

/* ---- The network, a function and its derivative beside each other. Each sum is taken by
 * one thread in a fixed order, so that the bits do not depend on the threads. ---- */
/* y = W x + b for every token; or it is added to y, the residual stream. */
static void linear(float *y, int adds, const float *x, const float *w, const float *b, int in,
                   int out) {
#pragma omp parallel for
    for (int t = 0; t < TOKENS; t++)
        for (int o = 0; o < out; o++) {
            float sum = (b ? b[o] : 0) + (adds ? y[t * out + o] : 0);
#pragma omp simd reduction(+ : sum)
            for (int i = 0; i < in; i++)
                sum += w[o * in + i] * x[t * in + i];
            y[t * out + o] = sum;
        }
}

static void linear_back(float *dx, float *dw, float *db, const float *dy, const float *x,
                        const float *w, int in, int out) {
#pragma omp parallel for
    for (int t = 0; t < TOKENS; t++) {
        memset(dx + t * in, 0, (size_t)in * sizeof *dx);
        for (int o = 0; o < out; o++)
            for (int i = 0; i < in; i++)
                dx[t * in + i] += dy[t * out + o] * w[o * in + i];
    }
#pragma omp parallel for
    for (int o = 0; o < out; o++) {
        float sum = 0;
        memset(dw + o * in, 0, (size_t)in * sizeof *dw);
        for (int t = 0; t < TOKENS; t++) {
            sum += dy[t * out + o];
            for (int i = 0; i < in; i++)
                dw[o * in + i] += dy[t * out + o] * x[t * in + i];
        }
        if (db)
            db[o] = sum;
    }
}

/* y = scale * z + bias, z = x with mean 0 and variance 1. */
static void norm(float *y, float *z, float *deviation, const float *x, const float *scale,
                 const float *bias) {
#pragma omp parallel for
    for (int t = 0; t < TOKENS; t++) {
        const float *in = x + t * WIDTH;
        float mean = 0, variance = 0;
        for (int i = 0; i < WIDTH; i++)
            mean += in[i] / WIDTH;
        for (int i = 0; i < WIDTH; i++)
            variance += (in[i] - mean) * (in[i] - mean) / WIDTH;
        deviation[t] = sqrtf(variance + 1e-5f);
        for (int i = 0; i < WIDTH; i++) {
            z[t * WIDTH + i] = (in[i] - mean) / deviation[t];
            y[t * WIDTH + i] = scale[i] * z[t * WIDTH + i] + bias[i];
        }
    }
}

/* Adds to dx: the residual stream goes on beside it. */
static void norm_back(float *dx, float *dscale, float *dbias, const float *dy, const float *z,
                      const float *deviation, const float *scale) {
#pragma omp parallel for
    for (int t = 0; t < TOKENS; t++) {
        const float *d = dy + t * WIDTH, *own = z + t * WIDTH;
        float mean = 0, along = 0;
        for (int i = 0; i < WIDTH; i++) {
            mean += d[i] * scale[i] / WIDTH;
            along += d[i] * scale[i] * own[i] / WIDTH;
        }
        for (int i = 0; i < WIDTH; i++)
            dx[t * WIDTH + i] += (d[i] * scale[i] - mean - own[i] * along) / deviation[t];
    }
#pragma omp parallel for
    for (int i = 0; i < WIDTH; i++) {
        dscale[i] = dbias[i] = 0;
        for (int t = 0; t < TOKENS; t++) {
            dscale[i] += dy[t * WIDTH + i] * z[t * WIDTH + i];
            dbias[i] += dy[t * WIDTH + i];
        }
    }
}

typedef float weights[CONTEXT][CONTEXT]; /* of a character: itself and those before */
static float dot(const float *a, const float *b) {
    float sum = 0;
    for (int i = 0; i < HEAD; i++)
        sum += a[i] * b[i];
    return sum;
}

/* qkv has, for each token, its query, key and value, each of all heads. */
static void attention(float *y, weights *all, const float *qkv) {
#pragma omp parallel for
    for (int job = 0; job < BATCH * HEADS; job++) {
        const int begin = job / HEADS * CONTEXT, at = job % HEADS * HEAD;
        const float *q = qkv + begin * 3 * WIDTH + at, *k = q + WIDTH, *v = k + WIDTH;
        for (int t = 0; t < CONTEXT; t++) {
            float *w = all[job][t], *out = y + (begin + t) * WIDTH + at;
            float largest = -INFINITY, sum = 0;
            for (int s = 0; s <= t; s++) {
                w[s] = dot(q + t * 3 * WIDTH, k + s * 3 * WIDTH) / sqrtf(HEAD);
                largest = fmaxf(largest, w[s]);
            }
            for (int s = 0; s <= t; s++)
                sum += w[s] = expf(w[s] - largest);
            memset(out, 0, HEAD * sizeof *out);
            for (int s = 0; s <= t; s++) {
                w[s] /= sum;
                for (int i = 0; i < HEAD; i++)
                    out[i] += w[s] * v[s * 3 * WIDTH + i];
            }
        }
    }
}

static void attention_back(float *dqkv, const float *dy, weights *all, const float *qkv) {
    memset(dqkv, 0, 3 * TOKENS * WIDTH * sizeof *dqkv);
#pragma omp parallel for
    for (int job = 0; job < BATCH * HEADS; job++) {
        const int begin = job / HEADS * CONTEXT, at = job % HEADS * HEAD;
        const float *q = qkv + begin * 3 * WIDTH + at, *k = q + WIDTH, *v = k + WIDTH;
        float *dq = dqkv + begin * 3 * WIDTH + at, *dk = dq + WIDTH, *dv = dk + WIDTH;
        for (int t = 0; t < CONTEXT; t++) {
            const float *w = all[job][t], *d = dy + (begin + t) * WIDTH + at;
            float dw[CONTEXT], mean = 0;
            for (int s = 0; s <= t; s++)
                mean += w[s] * (dw[s] = dot(d, v + s * 3 * WIDTH));
            for (int s = 0; s <= t; s++) {
                const float score = w[s] * (dw[s] - mean) / sqrtf(HEAD);
                for (int i = 0; i < HEAD; i++) {
                    dv[s * 3 * WIDTH + i] += w[s] * d[i];
                    dq[t * 3 * WIDTH + i] += score * k[s * 3 * WIDTH + i];
                    dk[s * 3 * WIDTH + i] += score * q[t * 3 * WIDTH + i];
                }
            }
        }
    }
}

/* GELU, in its form with tanh: x / 2 (1 + tanh(u)). */
static void gelu(float *y, const float *x) {
#pragma omp parallel for
    for (int i = 0; i < TOKENS * HIDDEN; i++)
        y[i] = 0.5f * x[i] * (1 + tanhf(0.7978846f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

static void gelu_back(float *d, const float *x) {
#pragma omp parallel for
    for (int i = 0; i < TOKENS * HIDDEN; i++) {
        const float tanh_u = tanhf(0.7978846f * (x[i] + 0.044715f * x[i] * x[i] * x[i]));
        const float du = 0.7978846f * (1 + 3 * 0.044715f * x[i] * x[i]);
        d[i] *= 0.5f * (1 + tanh_u) + 0.5f * x[i] * (1 - tanh_u * tanh_u) * du;
    }
}

typedef float stream[TOKENS * WIDTH];
static struct { /* What the backward pass needs of the forward pass. */
    stream z1, y1, mixed, z2, y2;
    float qkv[3 * TOKENS * WIDTH], hidden[TOKENS * HIDDEN], active[TOKENS * HIDDEN];
    float deviation1[TOKENS], deviation2[TOKENS];
    weights w[BATCH * HEADS];
} kept[BLOCKS];
static stream x, dx, last_z, last_y, d;
static float last_deviation[TOKENS], logits[TOKENS * 256], wide[TOKENS * HIDDEN];

/* The cross entropy of the next characters in nats: a mean over all tokens. Leaves its
 * derivative in logits. starts are where the windows begin. */
static float forward(float *const p[TENSORS], const int starts[BATCH]) {
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < WIDTH; i++)
            x[t * WIDTH + i] = p[EMBEDDING][text[starts[t / CONTEXT] + t % CONTEXT] * WIDTH + i] +
                               p[POSITIONS][t % CONTEXT * WIDTH + i];
    for (int b = 0; b < BLOCKS; b++) {
        float *const *own = p + b * PER_BLOCK;
        norm(kept[b].y1, kept[b].z1, kept[b].deviation1, x, own[NORM1], own[NORM1_BIAS]);
        linear(kept[b].qkv, 0, kept[b].y1, own[ATTENTION], NULL, WIDTH, 3 * WIDTH);
        attention(kept[b].mixed, kept[b].w, kept[b].qkv);
        linear(x, 1, kept[b].mixed, own[MIX], NULL, WIDTH, WIDTH);
        norm(kept[b].y2, kept[b].z2, kept[b].deviation2, x, own[NORM2], own[NORM2_BIAS]);
        linear(kept[b].hidden, 0, kept[b].y2, own[UP], own[UP_BIAS], WIDTH, HIDDEN);
        gelu(kept[b].active, kept[b].hidden);
        linear(x, 1, kept[b].active, own[DOWN], own[DOWN_BIAS], HIDDEN, WIDTH);
    }
    norm(last_y, last_z, last_deviation, x, p[LAST_NORM], p[LAST_BIAS]);
    linear(logits, 0, last_y, p[OUT], NULL, WIDTH, characters);
    float loss = 0;
    for (int t = 0; t < TOKENS; t++) {
        float *own = logits + t * characters, largest = -INFINITY, sum = 0;
        const int next = text[starts[t / CONTEXT] + t % CONTEXT + 1];
        for (int c = 0; c < characters; c++)
            largest = fmaxf(largest, own[c]);
        for (int c = 0; c < characters; c++)
            sum += expf(own[c] - largest);
        loss += (logf(sum) + largest - own[next]) / TOKENS;
        for (int c = 0; c < characters; c++)
            own[c] = (expf(own[c] - largest) / sum - (float)(c == next)) / TOKENS;
    }
    return loss;
}

static void backward(float *const p[TENSORS], float *const g[TENSORS], const int starts[BATCH]) {
    memset(dx, 0, sizeof dx);
    linear_back(d, g[OUT], NULL, logits, last_y, p[OUT], WIDTH, characters);
    norm_back(dx, g[LAST_NORM], g[LAST_BIAS], d, last_z, last_deviation, p[LAST_NORM]);
    for (int b = BLOCKS - 1; b >= 0; b--) {
        float *const *own = p + b * PER_BLOCK, *const *to = g + b * PER_BLOCK;
        linear_back(wide, to[DOWN], to[DOWN_BIAS], dx, kept[b].active, own[DOWN], HIDDEN, WIDTH);
        gelu_back(wide, kept[b].hidden);
        linear_back(d, to[UP], to[UP_BIAS], wide, kept[b].y2, own[UP], WIDTH, HIDDEN);
        norm_back(dx, to[NORM2], to[NORM2_BIAS], d, kept[b].z2, kept[b].deviation2, own[NORM2]);
        linear_back(d, to[MIX], NULL, dx, kept[b].mixed, own[MIX], WIDTH, WIDTH);
        attention_back(wide, d, kept[b].w, kept[b].qkv);
        linear_back(d, to[ATTENTION], NULL, wide, kept[b].y1, own[ATTENTION], WIDTH, 3 * WIDTH);
        norm_back(dx, to[NORM1], to[NORM1_BIAS], d, kept[b].z1, kept[b].deviation1, own[NORM1]);
    }
    memset(g[EMBEDDING], 0, (size_t)elements(EMBEDDING) * sizeof(float));
    memset(g[POSITIONS], 0, (size_t)elements(POSITIONS) * sizeof(float));
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < WIDTH; i++) {
            g[EMBEDDING][text[starts[t / CONTEXT] + t % CONTEXT] * WIDTH + i] += dx[t * WIDTH + i];
            g[POSITIONS][t % CONTEXT * WIDTH + i] += dx[t * WIDTH + i];
        }
}

/* ---- The optimizers ---- */
static const double DECAY = 0.1; /* of matrices; vectors have none */

static float *first[TENSORS], *second[TENSORS]; /* AdamW's moments */

static void adamw_step(float *const p[TENSORS], float *const g[TENSORS], int step, double rate) {
    const double beta1 = 0.6721, beta2 = 0.9026;
    const float b1 = (float)beta1, b2 = (float)beta2, eps = 1.07e-7f;
    const float size = (float)(rate / (1 - pow(beta1, step + 1)));
    const float correction = (float)(1 / (1 - pow(beta2, step + 1)));
    for (int i = 0; i < TENSORS; i++) {
        const float keep = (float)(1 - rate * (shapes[i].columns ? DECAY : 0));
        float *m = first[i], *v = second[i];
#pragma omp parallel for simd
        for (int k = 0; k < elements(i); k++) {
            m[k] = b1 * m[k] + (1 - b1) * g[i][k];
            v[k] = b2 * v[k] + (1 - b2) * g[i][k] * g[i][k];
            p[i][k] = keep * p[i][k] - size * m[k] / (sqrtf(correction * v[k]) + eps);
        }
    }
}

static sonew_optimizer *create(void) {
    sonew_options options;
    check(sonew_options_init(&options, sizeof options));
    options.beta1 = 0.723;
    options.beta2 = 0.9241;
    options.damping = SONEW_ABSOLUTE; /* as the settings were searched */
    options.eps = 3.53e-7;
    options.gamma = 0.0133;
    options.threads = 1; /* so few parameters are not worth threads beside OpenMP's */
    sonew_tensor tensors[TENSORS];
    check(sonew_tensors_init(tensors, TENSORS, sizeof *tensors));
    for (int i = 0; i < TENSORS; i++) {
        tensors[i].name = shapes[i].name;
        tensors[i].ndim = shapes[i].columns ? 2 : 1;
        tensors[i].dims[0] = (size_t)shapes[i].rows;
        tensors[i].dims[1] = (size_t)shapes[i].columns;
        tensors[i].update = shapes[i].columns ? SONEW_UPDATE_SONEW : SONEW_UPDATE_ADAM;
    }
    sonew_optimizer *optimizer = NULL;
    check(sonew_create(&options, tensors, TENSORS, &optimizer));
    for (size_t i = 0; i < TENSORS; i++) {
        sonew_settings settings;
        check(sonew_get_settings(optimizer, i, &settings, sizeof settings));
        settings.weight_decay = shapes[i].columns ? DECAY : 0;
        check(sonew_set_settings(optimizer, i, &settings));
    }
    return optimizer;
}

/* ---- Training ---- */
static float held_out_loss(float *const p[TENSORS]) {
    float loss = 0;
    for (int n = 0; n < HELD_OUT_BATCHES; n++) {
        int starts[BATCH];
        for (int b = 0; b < BATCH; b++)
            starts[b] = trained_on + (n * BATCH + b) * CONTEXT % (length - trained_on - CONTEXT);
        loss += forward(p, starts) / HELD_OUT_BATCHES;
    }
    return loss;
}

/* A linear warm-up over the first 5% of the steps, then a linear decay to 0. */
static double schedule(double rate, int step, int steps) {
    const int warm_up = steps > 20 ? steps / 20 : 1;
    return step < warm_up ? rate * (step + 1) / warm_up
                          : rate * (steps - step) / (steps - warm_up);
}

/* Trains to the end: from the beginning, or from where the optimizer is. The batch is a
 * function of the step, so that the position in the text need not be saved. */
static void train(const char *name, sonew_optimizer *optimizer, float *p[TENSORS], int steps,
                  const char *checkpoint) {
    int starts[BATCH];
    float *g[TENSORS];
    allocate(g);
    sonew_step_options options;
    check(sonew_step_options_init(&options, sizeof options));
    sonew_optimizer_info info = {0};
    if (optimizer)
        check(sonew_info(optimizer, &info, sizeof info));
    double network = 0, update = 0;
    const int from = (int)info.step_count, every = steps >= 10 ? steps / 10 : 1;
    for (int step = from; step < steps; step++) {
        if (step == steps / 2 && checkpoint)
            check(sonew_save(optimizer, checkpoint, (void *const *)p, TENSORS));
        unsigned seed = (unsigned)step * 7919u + 17u;
        for (int b = 0; b < BATCH; b++)
            starts[b] = (int)((uniform(&seed) + 1) / 2 * (float)(trained_on - CONTEXT - 1));
        const double begun = omp_get_wtime();
        forward(p, starts);
        backward(p, g, starts);
        const double between = omp_get_wtime();
        if (optimizer) {
            options.lr = schedule(9.92e-3, step, steps);
            check(sonew_step(optimizer, &options, (void *const *)p, (const void *const *)g,
                             TENSORS));
        } else {
            adamw_step(p, g, step, schedule(6.6e-3, step, steps));
        }
        network += between - begun;
        update += omp_get_wtime() - between;
        if ((step + 1) % every == 0 || step == steps - 1)
            printf("%s   step %4d   loss %7.4f\n", name, step + 1, held_out_loss(p));
    }
    printf("%s   %.1f ms for the network and %.2f ms for the optimizer in each step\n\n", name,
           1e3 * network / (steps - from), 1e3 * update / (steps - from));
    free(g[0]);
    check(sonew_free(optimizer));
}

int main(int argc, char **argv) {
    int steps = 300;
    if (argc > 1 && sscanf(argv[1], "--steps=%d", &steps) == 1)
        argc--, argv++;
    if (steps < 1)
        fail("must be at least 1", "--steps");
    const char *checkpoint = argc > 2 ? argv[2] : "transformer.safetensors";
    argc > 1 ? read_text(argv[1]) : read_documents();
    code_text();
    shapes[EMBEDDING].rows = shapes[OUT].rows = characters;

    float *with_adam[TENSORS], *with_sonew[TENSORS], *resumed[TENSORS];
    allocate(first);
    allocate(second);
    allocate(with_adam);
    allocate(with_sonew);
    const size_t bytes = allocate(resumed);
    start(with_adam);
    start(with_sonew);
    train("AdamW", NULL, with_adam, steps, NULL);
    train("SONew", create(), with_sonew, steps, checkpoint);

    printf("once more, from %s\n", checkpoint);
    sonew_optimizer *optimizer = create();
    check(sonew_load(optimizer, checkpoint, NULL, (void *const *)resumed, TENSORS));
    train("SONew", optimizer, resumed, steps, NULL);
    const int same = memcmp(resumed[0], with_sonew[0], bytes) == 0;
    puts(same ? "the same parameters, bit by bit" : "the parameters differ");
    return !same;
}
