/* Steps in stages: the same bits as steps in one call, from the handle and from
 * the plan; two machines with half of the rows each; every refusal. */
#include "check.h"

enum { COUNT = 2, ROWS = 12, COLS = 9, WEIGHT = ROWS * COLS, BIAS = ROWS, PLANES = 4 };

/* The part of one machine: ROWS rows of a weight, and their biases. */
typedef struct machine {
    float weight[WEIGHT], bias[BIAS], weight_grad[WEIGHT], bias_grad[BIAS];
    float planes[COUNT][PLANES][WEIGHT];
    double scalars[COUNT][SONEW_SCALARS];
    sonew_optimizer *optimizer;
    sonew_plan *plan;
    sonew_stages *stages, *plan_stages; /* of a step that is under way */
    size_t rows;
} machine;

static void describe(sonew_tensor tensors[COUNT], size_t rows) {
    const sonew_tensor both[COUNT] = {
        {.struct_size = sizeof(sonew_tensor), .name = "w", .ndim = 2, .dims = {rows, COLS}, .chains = SONEW_CONTIGUOUS_LINES},
        {.struct_size = sizeof(sonew_tensor), .name = "b", .ndim = 1, .dims = {rows}, .update = SONEW_UPDATE_ADAM},
    };
    memcpy(tensors, both, sizeof both);
}

/* The machine that has rows from first on. */
static machine *create(const sonew_options *options, size_t first, size_t rows) {
    machine *m = calloc(1, sizeof *m);
    CHECK(m != NULL);
    m->rows = rows;
    for (size_t i = 0; i < rows * COLS; i++)
        m->weight[i] = 0.25f * (float)((first * COLS + i) % 7) - 0.5f;
    for (size_t i = 0; i < rows; i++)
        m->bias[i] = 0.125f * (float)(first + i);
    sonew_tensor tensors[COUNT];
    describe(tensors, rows);
    OK(sonew_create(options, tensors, COUNT, &m->optimizer));
    OK(sonew_plan_create(options, tensors, COUNT, &m->plan));
    return m;
}

static void destroy(machine *m) {
    OK(sonew_free(m->optimizer));
    OK(sonew_plan_free(m->plan));
    free(m);
}

static void gradients(machine *m, size_t first, int number) {
    for (size_t i = 0; i < m->rows * COLS; i++)
        m->weight_grad[i] = 0.5f * (float)((first * COLS + i + (size_t)number) % 5) - 0.75f;
    for (size_t i = 0; i < m->rows; i++)
        m->bias_grad[i] = 0.25f * (float)(first + i) - (float)number;
}

static sonew_status begin(machine *m, const sonew_step_options *step) {
    void *params[] = {m->weight, m->bias};
    const void *grads[] = {m->weight_grad, m->bias_grad};
    return sonew_stages_begin(m->optimizer, step, params, grads, COUNT, &m->stages);
}

static void fill(machine *m, sonew_buffers buffers[COUNT], void *planes[COUNT][PLANES]) {
    for (size_t i = 0; i < COUNT; i++) {
        OK(sonew_buffers_init(&buffers[i], 1, sizeof buffers[i]));
        for (size_t p = 0; p < PLANES; p++)
            planes[i][p] = m->planes[i][p];
        buffers[i].params = i ? m->bias : m->weight;
        buffers[i].grad = i ? m->bias_grad : m->weight_grad;
        buffers[i].scalars = m->scalars[i];
        buffers[i].planes = planes[i];
        buffers[i].plane_count = planes_of(m->plan, i).count;
        buffers[i].len = i ? m->rows : m->rows * COLS;
    }
}

static sonew_status plan_begin(machine *m, const sonew_step_options *step, uint64_t number) {
    sonew_buffers buffers[COUNT];
    void *planes[COUNT][PLANES];
    fill(m, buffers, planes);
    /* The buffers must stay in place, the lists of pointers need not. */
    return sonew_plan_stages_begin(m->plan, step, number, buffers, COUNT, &m->plan_stages);
}

static sonew_options options_of(int32_t graft, int32_t damping) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.graft = graft;
    options.damping = damping;
    options.eps = damping == SONEW_ABSOLUTE ? 1e-6 : 1e-3;
    return options;
}

static sonew_step_options step_of(double clip_norm, int32_t non_finite) {
    sonew_step_options step;
    OK(sonew_step_options_init(&step, sizeof step));
    step.lr = 0.01;
    step.clip_norm = clip_norm;
    step.non_finite = non_finite;
    return step;
}

/* The stages that the header promises, as bits. */
static int expected(const sonew_options *options, const sonew_step_options *step) {
    int looks = step->non_finite == SONEW_SKIP || step->clip_norm > 0 ||
                options->graft == SONEW_GRAFT_NORMALIZED_RMSPROP;
    return (looks ? 1 << SONEW_GRADIENT_SQUARES : 0) |
           (options->damping == SONEW_ABSOLUTE ? 0 : 1 << SONEW_LARGEST_L1) |
           (options->graft != SONEW_GRAFT_NONE ? 1 << SONEW_NORMS : 0);
}

static void same_bits(const float *x, const float *y, size_t count) {
    CHECK(memcmp(x, y, count * sizeof *x) == 0);
}

/* One call, stages of the handle, and stages of the plan. */
static void alone(const sonew_options *options, const sonew_step_options *step) {
    machine *one = create(options, 0, ROWS), *staged = create(options, 0, ROWS);
    machine *planned = create(options, 0, ROWS);
    for (int number = 1; number <= 3; number++) {
        gradients(one, 0, number);
        gradients(staged, 0, number);
        gradients(planned, 0, number);
        void *params[] = {one->weight, one->bias};
        const void *grads[] = {one->weight_grad, one->bias_grad};
        OK(sonew_step(one->optimizer, step, params, grads, COUNT));

        int stages = 0, plan_stages = 0;
        double numbers[2 * COUNT], plan_numbers[2 * COUNT];
        int32_t stage, plan_stage;
        OK(begin(staged, step));
        OK(plan_begin(planned, step, (uint64_t)number));
        for (;;) {
            OK(sonew_stages_next(staged->stages, numbers, COUNT, &stage));
            OK(sonew_stages_next(planned->plan_stages, plan_numbers, COUNT, &plan_stage));
            CHECK(stage == plan_stage);
            if (stage == SONEW_DONE)
                break;
            CHECK(memcmp(numbers, plan_numbers, sizeof numbers) == 0);
            /* Both tensors are one block. */
            size_t blocks[COUNT] = {0};
            double of_blocks[2 * COUNT];
            OK(sonew_stages_blocks(staged->stages, blocks, COUNT, of_blocks, 2 * COUNT));
            CHECK(blocks[0] == 1 && blocks[1] == 1);
            CHECK(memcmp(numbers, of_blocks, sizeof numbers) == 0);
            memset(of_blocks, 0, sizeof of_blocks);
            OK(sonew_stages_blocks(planned->plan_stages, blocks, COUNT, of_blocks, 2 * COUNT));
            CHECK(memcmp(numbers, of_blocks, sizeof numbers) == 0);
            stages |= 1 << stage;
            plan_stages |= 1 << plan_stage;
        }
        CHECK(stages == expected(options, step) && plan_stages == stages);
        same_bits(one->weight, staged->weight, WEIGHT);
        same_bits(one->bias, staged->bias, BIAS);
        same_bits(one->weight, planned->weight, WEIGHT);
        same_bits(one->bias, planned->bias, BIAS);
        for (size_t tensor = 0; tensor < COUNT; tensor++) {
            size_t planes = planes_of(one->plan, tensor).count;
            for (size_t plane = 0; plane < planes; plane++) {
                sonew_view a, b;
                OK(sonew_plane_view(one->optimizer, tensor, plane, &a, sizeof a));
                OK(sonew_plane_view(staged->optimizer, tensor, plane, &b, sizeof b));
                same_bits(a.data, b.data, a.len);
                same_bits(a.data, planned->planes[tensor][plane], a.len);
            }
        }
        uint64_t count;
        double norm, other;
        count = info_of(staged->optimizer).step_count;
        CHECK(count == (uint64_t)number);
        norm = info_of(one->optimizer).gradient_norm;
        other = info_of(staged->optimizer).gradient_norm;
        CHECK(memcmp(&norm, &other, sizeof norm) == 0);
    }
    destroy(one);
    destroy(staged);
    destroy(planned);
}

/* Reduces the numbers of two machines, as the header says. */
static void reduce(double a[2 * COUNT], double b[2 * COUNT], int32_t stage) {
    for (int i = 0; i < 2 * COUNT; i++) {
        double largest = a[i] > b[i] ? a[i] : b[i];
        a[i] = b[i] = stage == SONEW_LARGEST_L1 ? largest : a[i] + b[i];
    }
}

/* A sum of two parts may differ from that of the whole in the last bit of a
 * double, and what is made of it in that of a float. */
static void nearly(const float *x, const float *y, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float error = x[i] > y[i] ? x[i] - y[i] : y[i] - x[i];
        CHECK(error <= 1e-6f);
    }
}

enum { CUT = 5 };

static void two_machines(const sonew_options *options, const sonew_step_options *step) {
    machine *whole = create(options, 0, ROWS);
    machine *a = create(options, 0, CUT), *b = create(options, CUT, ROWS - CUT);
    for (int number = 1; number <= 3; number++) {
        gradients(whole, 0, number);
        gradients(a, 0, number);
        gradients(b, CUT, number);
        void *params[] = {whole->weight, whole->bias};
        const void *grads[] = {whole->weight_grad, whole->bias_grad};
        OK(sonew_step(whole->optimizer, step, params, grads, COUNT));
        double numbers_a[2 * COUNT], numbers_b[2 * COUNT];
        int32_t stage, stage_b;
        OK(begin(a, step));
        OK(plan_begin(b, step, (uint64_t)number));
        for (;;) {
            OK(sonew_stages_next(a->stages, numbers_a, COUNT, &stage));
            OK(sonew_stages_next(b->plan_stages, numbers_b, COUNT, &stage_b));
            CHECK(stage == stage_b);
            if (stage == SONEW_DONE)
                break;
            reduce(numbers_a, numbers_b, stage);
        }
    }
    nearly(whole->weight, a->weight, CUT * COLS);
    nearly(whole->weight + CUT * COLS, b->weight, (ROWS - CUT) * COLS);
    nearly(whole->bias, a->bias, CUT);
    nearly(whole->bias + CUT, b->bias, ROWS - CUT);
    destroy(whole);
    destroy(a);
    destroy(b);
}

#define REFUSED(call, status, text)                                            \
    do {                                                                       \
        CHECK((call) == (status));                                             \
        CHECK(strstr(sonew_last_error(), text) != NULL);                       \
    } while (0)

/* Calls that are refused while a step is under way. */
static void refused_in_stages(machine *m, const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/never.safetensors", folder);
    void *params[] = {m->weight, m->bias};
    const void *grads[] = {m->weight_grad, m->bias_grad};
    const void *planes[5]; /* 3 of the weight, 2 of the bias */
    sonew_optimizer *o = m->optimizer;
    sonew_saving *saving = NULL;
    const char *text = "a step in stages is under way";
    REFUSED(begin(m, NULL), SONEW_IN_STAGES, text);
    REFUSED(sonew_step(o, NULL, params, grads, COUNT), SONEW_IN_STAGES, text);
    REFUSED(sonew_save(o, path, NULL, 0), SONEW_IN_STAGES, text);
    REFUSED(sonew_save(o, path, params, COUNT), SONEW_IN_STAGES, text);
    REFUSED(sonew_save_begin(o, path, NULL, 0, &saving), SONEW_IN_STAGES, text);
    REFUSED(sonew_load(o, path, NULL, NULL, 0), SONEW_IN_STAGES, text);
    REFUSED(sonew_make_live(o, path), SONEW_IN_STAGES, text);
    REFUSED(sonew_sync(o), SONEW_IN_STAGES, text);
    REFUSED(set_lr_scale(o, 0, 2), SONEW_IN_STAGES, text);
    REFUSED(sonew_reset_master(o), SONEW_IN_STAGES, text);
    for (size_t i = 0; i < 5; i++)
        planes[i] = m->planes[i / 3][i % 3];
    REFUSED(sonew_set_state(o, 1, planes, 5), SONEW_IN_STAGES, text);
    CHECK(saving == NULL && fopen(path, "rb") == NULL);
    /* Functions that only read still work. */
    uint64_t count;
    sonew_view view;
    count = info_of(o).step_count;
    CHECK(count == 0);
    CHECK(settings_of(o, 0).lr_scale == 1);
    OK(sonew_plane_view(o, 0, 0, &view, sizeof view));
}

/* Where the next stage must not write its numbers, or which stage it is: buffers of
 * the step, the state, each other. Everything stays as it is. */
static void overlapping_outputs(void) {
    sonew_options options = options_of(SONEW_GRAFT_ADAM, SONEW_ABSOLUTE);
    machine *m = create(&options, 0, ROWS), *twin = create(&options, 0, ROWS);
    gradients(m, 0, 1);
    gradients(twin, 0, 1);
    sonew_optimizer *o = m->optimizer;
    sonew_view view;
    OK(sonew_plane_view(o, 0, 1, &view, sizeof view));
    float *diagonal = (float *)(uintptr_t)view.data;
    union {
        double numbers[2 * COUNT];
        int32_t stages[4 * COUNT];
    } both = {{0}};
    double numbers[2 * COUNT];
    int32_t stage = 77;
    OK(begin(m, NULL));
    OK(plan_begin(m, NULL, 1));
    struct {
        void *memory;
        const char *handle_text, *plan_text;
    } const wrong[] = {
        {m->weight_grad, "the gradient of tensor \"w\"", "the gradient of tensor \"w\""},
        {m->weight_grad + WEIGHT - 1, "the gradient of tensor \"w\"", "the gradient of tensor \"w\""},
        {m->bias_grad, "the gradient of tensor \"b\"", "the gradient of tensor \"b\""},
        {m->weight, "the parameter of tensor \"w\"", "the parameter of tensor \"w\""},
        {m->bias + BIAS - 8, "the parameter of tensor \"b\"", "the parameter of tensor \"b\""},
        {m->planes[0][2], NULL, "band.1 of tensor \"w\""},
        {m->planes[1][0], NULL, "momentum of tensor \"b\""},
        {diagonal, "diagonal of tensor \"w\"", NULL},
    };
    for (int reached = 0; reached < 3; reached++) {
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            double *as_numbers = wrong[i].memory;
            int32_t *as_stage = wrong[i].memory;
            if (wrong[i].handle_text) {
                REFUSED(sonew_stages_next(m->stages, as_numbers, COUNT, &stage), SONEW_OVERLAP,
                        wrong[i].handle_text);
                REFUSED(sonew_stages_next(m->stages, numbers, COUNT, as_stage), SONEW_OVERLAP,
                        wrong[i].handle_text);
            }
            if (wrong[i].plan_text) {
                REFUSED(sonew_stages_next(m->plan_stages, as_numbers, COUNT, &stage),
                        SONEW_OVERLAP, wrong[i].plan_text);
                REFUSED(sonew_stages_next(m->plan_stages, numbers, COUNT, as_stage),
                        SONEW_OVERLAP, wrong[i].plan_text);
            }
        }
        REFUSED(sonew_stages_next(m->stages, both.numbers, COUNT, &both.stages[3]), SONEW_OVERLAP,
                "numbers overlaps stage");
        REFUSED(sonew_stages_next(m->plan_stages, both.numbers, COUNT, &both.stages[7]),
                SONEW_OVERLAP, "numbers overlaps stage");
        CHECK(stage == 77);
        same_bits(m->weight, twin->weight, WEIGHT);
        same_bits(m->weight_grad, twin->weight_grad, WEIGHT);
        same_bits(m->bias_grad, twin->bias_grad, BIAS);
        if (reached < 2) {
            OK(sonew_stages_next(m->stages, numbers, COUNT, &stage));
            stage = 77;
        }
    }
    OK(sonew_stages_next(m->stages, numbers, COUNT, &stage));
    CHECK(stage == SONEW_DONE);
    OK(sonew_stages_abort(m->plan_stages));
    destroy(m);
    destroy(twin);
}

/* The rows of blocks, and what sonew_block_rows() and sonew_stages_blocks() refuse. */
static void blocks_of_rows(void) {
    sonew_tensor tensor;
    sonew_tensors_init(&tensor, 1, sizeof tensor);
    tensor.name = "w";
    tensor.ndim = 2;
    tensor.dims[0] = 1000;
    tensor.dims[1] = 64;
    tensor.chains = SONEW_CONTIGUOUS_LINES;
    size_t rows = 0;
    OK(sonew_block_rows(NULL, &tensor, &rows));
    CHECK(rows == 128);
    tensor.chains = SONEW_CONTIGUOUS;
    OK(sonew_block_rows(NULL, &tensor, &rows));
    CHECK(rows == 1000);
    tensor.chains = SONEW_CONTIGUOUS_LINES;
    REFUSED(sonew_block_rows(NULL, NULL, &rows), SONEW_NULL_POINTER, "tensor is null");
    REFUSED(sonew_block_rows(NULL, &tensor, NULL), SONEW_NULL_POINTER, "rows is null");
    tensor.name = "";
    REFUSED(sonew_block_rows(NULL, &tensor, &rows), SONEW_TENSOR_NAME, "");
    tensor.name = "w";
    sonew_options options;
    sonew_options_init(&options, sizeof options);
    options.gamma = 2;
    REFUSED(sonew_block_rows(&options, &tensor, &rows), SONEW_OUT_OF_RANGE, "gamma is 2");
    CHECK(rows == 1000);

    /* Rows 100 to 200 are parts of two blocks. */
    float weight[100 * 64] = {0}, gradient[100 * 64] = {0};
    tensor.dims[0] = 100;
    tensor.first_row = 100;
    tensor.whole_rows = 1000;
    sonew_optimizer *o = NULL;
    OK(sonew_create(NULL, &tensor, 1, &o));
    void *params[] = {weight};
    const void *grads[] = {gradient};
    sonew_stages *stages = NULL;
    OK(sonew_stages_begin(o, NULL, params, grads, 1, &stages));
    size_t blocks = 77;
    double numbers[2] = {77, 77};
    REFUSED(sonew_stages_blocks(stages, &blocks, 1, NULL, 0), SONEW_BLOCK_CUT,
            "tensor \"w\": 100 rows from row 100 on of 1000 are no whole blocks, which are 128 rows");
    OK(sonew_stages_abort(stages));
    OK(sonew_free(o));

    tensor.first_row = tensor.whole_rows = 0;
    OK(sonew_create(NULL, &tensor, 1, &o));
    OK(sonew_stages_begin(o, NULL, params, grads, 1, &stages));
    REFUSED(sonew_stages_blocks(stages, NULL, 1, numbers, 2), SONEW_NULL_POINTER, "blocks is null");
    REFUSED(sonew_stages_blocks(stages, &blocks, 1, NULL, 2), SONEW_NULL_POINTER, "numbers is null");
    REFUSED(sonew_stages_blocks(stages, &blocks, 2, numbers, 2), SONEW_TENSOR_COUNT, "blocks has 2");
    REFUSED(sonew_stages_blocks(stages, &blocks, 1, numbers, 4), SONEW_WRONG_LENGTH,
            "there is room for 4 numbers of blocks, they have 2");
    REFUSED(sonew_stages_blocks(stages, &blocks, 1, (double *)(void *)weight, 2), SONEW_OVERLAP,
            "numbers overlaps the parameter of tensor \"w\"");
    REFUSED(sonew_stages_blocks(stages, (size_t *)(void *)gradient, 1, numbers, 2), SONEW_OVERLAP,
            "blocks overlaps the gradient of tensor \"w\"");
    REFUSED(sonew_stages_blocks(stages, (size_t *)(void *)numbers, 1, numbers, 2), SONEW_OVERLAP,
            "blocks overlaps numbers");
    REFUSED(sonew_stages_blocks((sonew_stages *)(void *)o, &blocks, 1, numbers, 2),
            SONEW_BAD_HANDLE, "stages is not a live handle");
    CHECK(blocks == 77 && numbers[0] == 77 && numbers[1] == 77);
    /* Before the first stage the numbers are zeros. */
    OK(sonew_stages_blocks(stages, &blocks, 1, numbers, 2));
    CHECK(blocks == 1 && numbers[0] == 0 && numbers[1] == 0);
    OK(sonew_free(o));
}

static void refusals(const char *folder) {
    sonew_options options = options_of(SONEW_GRAFT_ADAM, SONEW_RELATIVE);
    sonew_step_options step = step_of(0, SONEW_SKIP);
    machine *m = create(&options, 0, ROWS), *twin = create(&options, 0, ROWS);
    gradients(m, 0, 1);
    gradients(twin, 0, 1);
    double numbers[2 * COUNT] = {-1, -1, -1, -1};
    int32_t stage = 77;
    const char *ended = "stages is not a live handle";
    sonew_optimizer *o = m->optimizer;
    REFUSED(sonew_stages_next(NULL, numbers, COUNT, &stage), SONEW_NULL_POINTER, "stages");
    OK(sonew_stages_abort(NULL));
    REFUSED(sonew_stages_next((sonew_stages *)(void *)o, numbers, COUNT, &stage),
            SONEW_BAD_HANDLE, ended);
    REFUSED(sonew_stages_abort((sonew_stages *)(void *)o), SONEW_BAD_HANDLE, ended);

    /* What sonew_step() refuses does not begin. */
    void *params[] = {m->weight, m->bias};
    const void *grads[] = {m->weight_grad, m->weight};
    REFUSED(sonew_stages_begin(o, &step, params, grads, COUNT, &m->stages), SONEW_OVERLAP,
            "tensor \"b\"");
    grads[1] = m->bias_grad;
    REFUSED(sonew_stages_begin(o, &step, params, grads, 1, &m->stages), SONEW_TENSOR_COUNT,
            "params has 1");
    params[1] = NULL;
    REFUSED(sonew_stages_begin(o, &step, params, grads, COUNT, &m->stages), SONEW_NULL_POINTER,
            "\"b\"");
    REFUSED(sonew_stages_begin(o, &step, params, grads, COUNT, NULL), SONEW_NULL_POINTER,
            "stages is null");
    sonew_step_options wrong = step;
    wrong.lr = -1;
    REFUSED(begin(m, &wrong), SONEW_OUT_OF_RANGE, "lr is -1");
    REFUSED(plan_begin(m, &step, 0), SONEW_OUT_OF_RANGE, "step number is 0");
    REFUSED(sonew_plan_stages_begin(m->plan, &step, 1, NULL, COUNT, &m->plan_stages),
            SONEW_NULL_POINTER, "buffers");
    CHECK(m->stages == NULL && m->plan_stages == NULL);

    /* Aborted before anything is written. The first call reads no numbers. */
    OK(begin(m, &step));
    refused_in_stages(m, folder);
    sonew_stages *aborted = m->stages;
    OK(sonew_stages_abort(m->stages));
    OK(begin(m, &step));
    REFUSED(sonew_stages_next(aborted, numbers, COUNT, &stage), SONEW_BAD_HANDLE, ended);
    OK(sonew_stages_next(m->stages, numbers, COUNT, &stage));
    CHECK(stage == SONEW_GRADIENT_SQUARES && numbers[0] > 0 && numbers[1] == 0);
    refused_in_stages(m, folder);
    OK(sonew_stages_abort(m->stages));

    /* A gradient on another machine is not finite: the step ends, unchanged. */
    OK(begin(m, &step));
    OK(plan_begin(m, &step, 1));
    double plan_numbers[2 * COUNT];
    OK(sonew_stages_next(m->stages, numbers, COUNT, &stage));
    OK(sonew_stages_next(m->plan_stages, plan_numbers, COUNT, &stage));
    double infinity = 1e300 * 1e300;
    numbers[2] = plan_numbers[2] = infinity - infinity;
    stage = 77;
    REFUSED(sonew_stages_next(m->stages, numbers, COUNT, &stage), SONEW_NON_FINITE_GRADIENT, "\"b\"");
    REFUSED(sonew_stages_next(m->plan_stages, plan_numbers, COUNT, &stage),
            SONEW_NON_FINITE_GRADIENT, "\"b\"");
    REFUSED(sonew_stages_next(m->stages, numbers, COUNT, &stage), SONEW_BAD_HANDLE, ended);
    REFUSED(sonew_stages_abort(m->plan_stages), SONEW_BAD_HANDLE, ended);
    CHECK(stage == 77);

    /* A refused call leaves the step at its stage. */
    void *twin_params[] = {twin->weight, twin->bias};
    const void *twin_grads[] = {twin->weight_grad, twin->bias_grad};
    OK(sonew_step(twin->optimizer, &step, twin_params, twin_grads, COUNT));
    OK(begin(m, &step));
    for (int i = 0; i < 3; i++) {
        OK(sonew_stages_next(m->stages, numbers, COUNT, &stage));
        CHECK(stage == SONEW_GRADIENT_SQUARES + i);
        double first = numbers[0];
        numbers[0] = -3;
        REFUSED(sonew_stages_next(m->stages, numbers, COUNT, &stage), SONEW_OUT_OF_RANGE,
                "tensor \"w\" is -3, must be not negative");
        numbers[0] = first;
        REFUSED(sonew_stages_next(m->stages, numbers, COUNT + 1, &stage), SONEW_TENSOR_COUNT,
                "numbers has 3");
        REFUSED(sonew_stages_next(m->stages, NULL, COUNT, &stage), SONEW_NULL_POINTER, "numbers");
        REFUSED(sonew_stages_next(m->stages, numbers, COUNT, NULL), SONEW_NULL_POINTER, "stage");
        if (stage >= SONEW_LARGEST_L1)
            REFUSED(sonew_stages_abort(m->stages), SONEW_STATE_WRITTEN, "updated with the gradients");
        refused_in_stages(m, folder);
    }
    OK(sonew_stages_next(m->stages, numbers, COUNT, &stage));
    CHECK(stage == SONEW_DONE);
    REFUSED(sonew_stages_abort(m->stages), SONEW_BAD_HANDLE, ended);
    same_bits(m->weight, twin->weight, WEIGHT);
    same_bits(m->bias, twin->bias, BIAS);

    /* A plan's step can be aborted at any stage; its parameters are unchanged. */
    for (int stages = 0; stages <= 3; stages++) {
        OK(plan_begin(m, &step, 1));
        for (int i = 0; i < stages; i++)
            OK(sonew_stages_next(m->plan_stages, numbers, COUNT, &stage));
        REFUSED(plan_begin(m, &step, 1), SONEW_IN_STAGES, "under way");
        sonew_buffers buffers[COUNT];
        void *planes[COUNT][PLANES];
        fill(m, buffers, planes);
        REFUSED(sonew_plan_step(m->plan, &step, 1, buffers, COUNT), SONEW_IN_STAGES, "under way");
        OK(sonew_stages_abort(m->plan_stages));
        same_bits(m->weight, twin->weight, WEIGHT);
        same_bits(m->bias, twin->bias, BIAS);
    }

    /* So can an optimizer's in a live file. Freeing it in the middle closes it. */
    char path[4096];
    snprintf(path, sizeof path, "%s/live.safetensors", folder);
    OK(sonew_make_live(o, path));
    OK(begin(m, &step));
    for (int i = 0; i < 3; i++)
        OK(sonew_stages_next(m->stages, numbers, COUNT, &stage));
    OK(sonew_stages_abort(m->stages));
    OK(begin(m, &step));
    for (int i = 0; i < 3; i++)
        OK(sonew_stages_next(m->stages, numbers, COUNT, &stage));
    sonew_stages *freed = m->stages;
    destroy(m);
    REFUSED(sonew_stages_next(freed, numbers, COUNT, &stage), SONEW_BAD_HANDLE, ended);
    REFUSED(sonew_stages_abort(freed), SONEW_BAD_HANDLE, ended);
    OK(sonew_verify(path));
    destroy(twin);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    for (int32_t graft = SONEW_GRAFT_NONE; graft <= SONEW_GRAFT_NORMALIZED_RMSPROP; graft++)
        for (int32_t damping = SONEW_ABSOLUTE; damping <= SONEW_RELATIVE_LAGGED; damping++)
            for (int clip = 0; clip < 3; clip++)
                for (int32_t check = SONEW_SKIP; check <= SONEW_UNCHECKED; check++) {
                    sonew_options options = options_of(graft, damping);
                    sonew_step_options step = step_of((double[]){0, 0.5, 1e6}[clip], check);
                    alone(&options, &step);
                    two_machines(&options, &step);
                }
    refusals(argv[1]);
    blocks_of_rows();
    overlapping_outputs();
    puts("stages make a step");
    return 0;
}
