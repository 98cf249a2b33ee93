/* A tensor with pooled correlations whose rows lie on two machines: the steps of the whole one,
 * as the loop of the header makes them, and every refusal of its functions. */
#include <math.h>

#include "check.h"

#define REFUSED(call, status, text)                                            \
    do {                                                                       \
        CHECK((call) == (status));                                             \
        CHECK(strstr(sonew_last_error(), text) != NULL);                       \
    } while (0)

/* Chains in three groups, which take turns; the weight beside a bias with the Adam update. */
enum { COUNT = 2, ROWS = 600, FIRST = 231, COLS = 5, BAND = 2, SUMS = (BAND + 1) * COLS };

static float weights[2][ROWS * COLS], biases[2][ROWS], weight_grad[ROWS * COLS], bias_grad[ROWS];

static sonew_optimizer *create(size_t first, size_t rows) {
    sonew_options options;
    sonew_options_init(&options, sizeof options);
    options.pooling = SONEW_POOLING_BAND;
    options.band = BAND;
    options.eps = 1e-4;
    sonew_tensor tensors[COUNT];
    sonew_tensors_init(tensors, COUNT, sizeof *tensors);
    tensors[0].name = "w";
    tensors[0].ndim = 2;
    tensors[0].dims[0] = rows;
    tensors[0].dims[1] = COLS;
    tensors[1].name = "b";
    tensors[1].ndim = 1;
    tensors[1].dims[0] = rows;
    tensors[1].update = SONEW_UPDATE_ADAM;
    for (int i = 0; i < COUNT; i++) {
        tensors[i].first_row = first;
        tensors[i].whole_rows = ROWS;
    }
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    return optimizer;
}

static sonew_stages *begin(sonew_optimizer *optimizer, int model, size_t first) {
    void *params[] = {weights[model] + first * COLS, biases[model] + first};
    const void *grads[] = {weight_grad + first * COLS, bias_grad + first};
    sonew_stages *stages = NULL;
    OK(sonew_stages_begin(optimizer, NULL, params, grads, COUNT, &stages));
    return stages;
}

/* Takes a step of the whole model, and of two machines; sums go over them at the last stage. */
static void step(sonew_optimizer *whole, sonew_optimizer *machines[2], int number) {
    for (int i = 0; i < ROWS * COLS; i++)
        weight_grad[i] = sinf((float)(i + 31 * number)) + 0.5f * sinf((float)(i + 1 + 31 * number));
    for (int i = 0; i < ROWS; i++)
        bias_grad[i] = cosf((float)(i * number));
    void *params[] = {weights[0], biases[0]};
    const void *grads[] = {weight_grad, bias_grad};
    OK(sonew_step(whole, NULL, params, grads, COUNT));

    const size_t first[2] = {0, FIRST};
    sonew_stages *stages[2];
    double numbers[2][2 * COUNT];
    float sums[SUMS] = {0}, own[SUMS];
    int32_t stage = 0;
    for (int m = 0; m < 2; m++)
        stages[m] = begin(machines[m], 1, first[m]);
    do {
        for (int m = 0; m < 2; m++) {
            OK(sonew_stages_next(stages[m], numbers[m], COUNT, &stage));
            if (stage == SONEW_NORMS) {
                OK(sonew_partial_sums(machines[m], 0, own, SUMS, NULL));
                for (int i = 0; i < SUMS; i++)
                    sums[i] += own[i];
            } else if (stage != SONEW_DONE) {
                REFUSED(sonew_partial_sums(machines[m], 0, own, SUMS, NULL), SONEW_IN_STAGES, "");
            }
        }
        for (int i = 0; i < 2 * COUNT && stage != SONEW_DONE; i++) {
            const double a = numbers[0][i], b = numbers[1][i];
            numbers[0][i] = numbers[1][i] = stage != SONEW_LARGEST_L1 ? a + b : a > b ? a : b;
        }
    } while (stage != SONEW_DONE);
    for (int m = 0; m < 2; m++) {
        REFUSED(sonew_stages_begin(machines[m], NULL, params, grads, COUNT, &stages[m]),
                SONEW_PARTIAL_SUMS, "tensor \"w\" is a shard whose pooled sums");
        OK(sonew_set_reduced_sums(machines[m], 0, sums, SUMS));
        OK(sonew_set_reduced_sums(machines[m], 1, sums, 0));
    }
}

static void two_machines_are_one(void) {
    for (int model = 0; model < 2; model++)
        for (int i = 0; i < ROWS * COLS; i++)
            weights[model][i] = 0.25f * (float)(i % 7) - 0.5f;
    sonew_optimizer *whole = create(0, ROWS);
    sonew_optimizer *machines[2] = {create(0, FIRST), create(FIRST, ROWS - FIRST)};
    for (int number = 1; number < 8; number++) {
        step(whole, machines, number);
        for (int i = 0; i < ROWS * COLS; i++)
            CHECK(fabsf(weights[0][i] - weights[1][i]) < 1e-6f);
        for (int i = 0; i < ROWS; i++)
            CHECK(biases[0][i] == biases[1][i]);
    }
    OK(sonew_free(whole));
    OK(sonew_free(machines[0]));
    OK(sonew_free(machines[1]));
}

static void refusals(const char *folder) {
    /* The second group of chains, whose turn is first, is among these. */
    sonew_optimizer *o = create(FIRST, ROWS - FIRST);
    void *params[] = {weights[0], biases[0]};
    const void *grads[] = {weight_grad, bias_grad};
    OK(sonew_step(o, NULL, params, grads, COUNT));
    float sums[SUMS + 1];
    for (int i = 0; i <= SUMS; i++)
        sums[i] = 77;
    size_t count = 77;
    const char *wrong = "tensor \"w\": the partial sums has 14 elements, expected 15";
    sonew_view view;
    OK(sonew_plane_view(o, 0, 2, &view, sizeof view));
    float *state = (float *)(uintptr_t)view.data;
    char *odd = (char *)sums + 1;
    REFUSED(sonew_partial_sums(NULL, 0, sums, SUMS, &count), SONEW_NULL_POINTER, "optimizer is null");
    REFUSED(sonew_partial_sums(o, 0, NULL, SUMS, &count), SONEW_NULL_POINTER, "sums, the partial sums");
    REFUSED(sonew_partial_sums(o, 2, sums, SUMS, &count), SONEW_UNKNOWN_TENSOR, "");
    REFUSED(sonew_partial_sums(o, 2, NULL, 0, &count), SONEW_UNKNOWN_TENSOR, "");
    REFUSED(sonew_partial_sums(o, 0, sums, SUMS - 1, &count), SONEW_WRONG_LENGTH, wrong);
    REFUSED(sonew_partial_sums(o, 0, odd, SUMS, &count), SONEW_MISALIGNED, "the partial sums");
    REFUSED(sonew_partial_sums(o, 0, state, SUMS, &count), SONEW_OVERLAP, "pooled of tensor \"w\"");
    REFUSED(sonew_partial_sums(o, 0, sums, SUMS, (size_t *)(void *)sums), SONEW_OVERLAP,
            "count overlaps the partial sums of tensor \"w\"");
    REFUSED(sonew_set_reduced_sums(NULL, 0, sums, SUMS), SONEW_NULL_POINTER, "optimizer is null");
    REFUSED(sonew_set_reduced_sums(o, 0, NULL, SUMS), SONEW_NULL_POINTER, "sums, the reduced sums");
    REFUSED(sonew_set_reduced_sums(o, 2, sums, SUMS), SONEW_UNKNOWN_TENSOR, "");
    REFUSED(sonew_set_reduced_sums(o, 0, sums, SUMS + 1), SONEW_WRONG_LENGTH, "has 16 elements");
    REFUSED(sonew_set_reduced_sums(o, 1, sums, 1), SONEW_WRONG_LENGTH, "tensor \"b\"");
    REFUSED(sonew_set_reduced_sums(o, 0, odd, SUMS), SONEW_MISALIGNED, "the reduced sums");
    REFUSED(sonew_set_reduced_sums(o, 0, state, SUMS), SONEW_OVERLAP, "pooled of tensor \"w\"");
    REFUSED(sonew_step(o, NULL, params, grads, COUNT), SONEW_PARTIAL_SUMS, "tensor \"w\"");
    char path[1000];
    snprintf(path, sizeof path, "%s/partial", folder);
    REFUSED(sonew_save(o, path, NULL, 0), SONEW_PARTIAL_SUMS, "tensor \"w\"");
    REFUSED(sonew_make_live(o, path), SONEW_SHARD, "cannot be in a live file");
    for (int i = 0; i <= SUMS; i++)
        CHECK(sums[i] == 77);
    CHECK(count == 77);
    OK(sonew_partial_sums(o, 1, NULL, 0, &count));
    CHECK(count == 0);
    OK(sonew_partial_sums(o, 0, NULL, 0, &count));
    CHECK(count == SUMS);
    /* There may be more room. */
    OK(sonew_partial_sums(o, 0, sums, SUMS + 1, &count));
    CHECK(sums[0] > 0 && sums[SUMS] == 77);
    OK(sonew_set_reduced_sums(o, 0, sums, SUMS));
    OK(sonew_partial_sums(o, 0, sums, SUMS, &count));
    CHECK(sums[0] == 0 && count == SUMS);
    OK(sonew_save(o, path, NULL, 0));
    OK(sonew_step(o, NULL, params, grads, COUNT));
    OK(sonew_free(o));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    two_machines_are_one();
    refusals(argv[1]);
    puts("sums of two machines make one");
    return 0;
}
