/* Refusals of sonew_create(). */
#include "refusals.h"

/* Creates an optimizer, which must fail and not touch the output. */
static sonew_status create(const sonew_options *options,
                           const sonew_tensor *tensors, size_t count) {
    static char mark;
    sonew_optimizer *const untouched = (sonew_optimizer *)&mark;
    sonew_optimizer *out = untouched;
    sonew_status status = sonew_create(options, tensors, count, &out);
    CHECK(status != SONEW_OK && out == untouched);
    return status;
}

/* A test that creates an optimizer after one argument has been made invalid. */
#define WITH(name, spoil)                                                      \
    static sonew_status name(void) {                                           \
        sonew_options options = good_options();                                \
        sonew_tensor tensors[COUNT];                                           \
        good_tensors(tensors);                                                 \
        size_t count = COUNT;                                                  \
        spoil;                                                                 \
        return create(&options, tensors, count);                               \
    }

static const double nan_value = (double)(1e300 * 1e300) * 0.0;
#define INFINITE (1e300 * 1e300)

WITH(band_17, options.band = 17)
WITH(band_negative, options.band = -1)
WITH(beta1_is_1, options.beta1 = 1)
WITH(beta1_negative, options.beta1 = -0.1)
WITH(beta1_nan, options.beta1 = nan_value)
WITH(beta2_is_1, options.beta2 = 1)
WITH(beta2_negative, options.beta2 = -1e-9)
WITH(beta2_nan, options.beta2 = nan_value)
WITH(eps_negative, options.eps = -1e-6)
WITH(eps_nan, options.eps = nan_value)
WITH(eps_infinite, options.eps = INFINITE)
WITH(gamma_negative, options.gamma = -0.5)
WITH(gamma_is_1, options.gamma = 1)
WITH(gamma_nan, options.gamma = nan_value)
WITH(graft_eps_negative, options.graft_eps = -1)
WITH(graft_eps_nan, options.graft_eps = nan_value)
WITH(weight_decay_negative, options.weight_decay = -0.01)
WITH(weight_decay_nan, options.weight_decay = nan_value)
WITH(threads_negative, options.threads = -2)
WITH(threads_1025, options.threads = 1025)
WITH(statistics_unknown, options.statistics = 2)
WITH(damping_unknown, options.damping = -1)
WITH(graft_unknown, options.graft = 5)
WITH(bias_correction_2, options.bias_correction = 2)
WITH(graft_bias_correction_2, options.graft_bias_correction = 2)
WITH(rounding_unknown, options.rounding = 2)
WITH(lagged_norms_2, options.lagged_norms = 2)
WITH(nesterov_negative, options.nesterov = -1)
WITH(instruction_set_unknown, options.instruction_set = 5)
#if defined(__x86_64__) || defined(_M_X64)
WITH(instruction_set_elsewhere, options.instruction_set = SONEW_ISA_NEON)
#else
WITH(instruction_set_elsewhere, options.instruction_set = SONEW_ISA_AVX512)
#endif
WITH(pooling_unknown, options.pooling = 4)
WITH(rank_0, options.pooling = SONEW_POOLING_RANK; options.rank = 0)
WITH(rank_65, options.pooling = SONEW_POOLING_RANK; options.rank = 65)
WITH(shrink_is_1, options.shrink = 1)
WITH(options_reserved, options.reserved[0] = 1)
WITH(chains_too_long, options.pooling = SONEW_POOLING_ALL; tensors[1].dims[0] = 4097)
WITH(pool_never_created, options.pool = (const sonew_pool *)(const void *)&options)
WITH(pool_is_an_optimizer, options.pool = (const sonew_pool *)optimizer)
WITH(options_not_filled_in, memset(&options, 0, sizeof options))
WITH(options_of_odd_size, options.struct_size -= 1)
WITH(tensors_null, return create(&options, NULL, count))
WITH(no_tensors, count = 0)
WITH(too_many_tensors_to_list, count = SIZE_MAX / 8)
WITH(name_null, tensors[1].name = NULL)
WITH(name_empty, tensors[1].name = "")
WITH(name_with_newline, tensors[1].name = "a\nb")
WITH(name_not_utf8, tensors[1].name = "\xff\xfe")
WITH(name_twice, tensors[1].name = "a")
WITH(nine_dimensions, tensors[0].ndim = 9)
WITH(dimensions_without_end, tensors[0].ndim = SIZE_MAX)
WITH(forgotten_ndim, tensors[0].ndim = 1)
WITH(chains_unknown, tensors[0].chains = 4)
WITH(update_unknown, tensors[1].update = 2)
WITH(tensor_reserved, tensors[1].reserved[1] = 7)
WITH(dtype_unknown, tensors[0].dtype = 5)
WITH(grad_dtype_unknown, tensors[1].grad_dtype = -1)
WITH(state_dtype_unknown, tensors[1].state_dtype = 9)
WITH(master_2, tensors[0].master = 2)
WITH(state_is_f16, tensors[1].state_dtype = SONEW_F16)
WITH(master_of_f64, tensors[1].dtype = SONEW_F64; tensors[1].master = 1)
WITH(size_overflows, tensors[0].dims[0] = SIZE_MAX; tensors[0].dims[1] = 2)
WITH(size_is_2_60, tensors[1].dims[0] = (size_t)1 << 60)
WITH(size_is_2_59, tensors[1].dims[0] = (size_t)1 << 59)
WITH(size_is_2_50, tensors[1].dims[0] = (size_t)1 << 50)

/* Options with a pool, which is freed before the call or after it. */
static sonew_status with_pool(int32_t threads, int freed) {
    sonew_options options = good_options();
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    sonew_pool *pool = NULL;
    OK(sonew_pool_create(2, NULL, 0, &pool));
    options.pool = pool;
    options.threads = threads;
    if (freed)
        OK(sonew_pool_free(pool));
    sonew_status status = create(&options, tensors, COUNT);
    if (!freed)
        OK(sonew_pool_free(pool));
    return status;
}

static sonew_status pool_freed(void) { return with_pool(0, 1); }
static sonew_status pool_and_threads(void) { return with_pool(2, 0); }

/* Creates a pool, which must fail and not touch the output. */
static sonew_status create_pool(int32_t threads, const size_t *processors, size_t count) {
    static char mark;
    sonew_pool *const untouched = (sonew_pool *)&mark;
    sonew_pool *out = untouched;
    sonew_status status = sonew_pool_create(threads, processors, count, &out);
    CHECK(status != SONEW_OK && out == untouched);
    return status;
}

static sonew_status pool_threads_negative(void) { return create_pool(-1, NULL, 0); }
static sonew_status pool_threads_1025(void) { return create_pool(1025, NULL, 0); }
static sonew_status pool_processors_null(void) { return create_pool(1, NULL, 1); }
static sonew_status pool_processors_without_end(void) {
    size_t one = 0;
    return create_pool(1, &one, SIZE_MAX);
}
static sonew_status pool_processor_absent(void) {
    size_t processors[] = {8191};
    return create_pool(2, processors, 1);
}
static sonew_status pool_out_null(void) { return sonew_pool_create(1, NULL, 0, NULL); }
static sonew_status pool_free_of_plan(void) { return sonew_pool_free((sonew_pool *)plan); }

static sonew_status out_null(void) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    return sonew_create(NULL, tensors, COUNT, NULL);
}

/* A struct of a newer header: it is larger, and a field that this library does not
 * know is set. */
static sonew_status unknown_field(void) {
    struct {
        sonew_options known;
        double unknown;
    } newer;
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    OK(sonew_options_init(&newer.known, sizeof newer));
    CHECK(newer.unknown == 0);
    sonew_optimizer *fine = NULL;
    OK(sonew_create(&newer.known, tensors, COUNT, &fine));
    OK(sonew_free(fine));
    newer.unknown = 1;
    return create(&newer.known, tensors, COUNT);
}

static sonew_status init_null(void) {
    return sonew_options_init(NULL, sizeof(sonew_options));
}

static sonew_status init_too_small(void) {
    sonew_options options;
    memset(&options, 7, sizeof options);
    sonew_status status = sonew_options_init(&options, 8);
    CHECK(options.band == 0x07070707);
    return status;
}

const refusal create_refusals[] = {
    REFUSAL(band_17, SONEW_OUT_OF_RANGE, "options.band is 17, must be 0 to 16"),
    REFUSAL(band_negative, SONEW_OUT_OF_RANGE, "options.band is -1"),
    REFUSAL(beta1_is_1, SONEW_OUT_OF_RANGE, "options.beta1 is 1, must be in [0, 1)"),
    REFUSAL(beta1_negative, SONEW_OUT_OF_RANGE, "options.beta1 is -0.1"),
    REFUSAL(beta1_nan, SONEW_OUT_OF_RANGE, "options.beta1 is NaN"),
    REFUSAL(beta2_is_1, SONEW_OUT_OF_RANGE, "options.beta2 is 1"),
    REFUSAL(beta2_negative, SONEW_OUT_OF_RANGE, "options.beta2 is -1e-9"),
    REFUSAL(beta2_nan, SONEW_OUT_OF_RANGE, "options.beta2 is NaN"),
    REFUSAL(eps_negative, SONEW_OUT_OF_RANGE, "options.eps is -0.000001"),
    REFUSAL(eps_nan, SONEW_OUT_OF_RANGE, "options.eps is NaN"),
    REFUSAL(eps_infinite, SONEW_OUT_OF_RANGE, "options.eps is inf"),
    REFUSAL(gamma_negative, SONEW_OUT_OF_RANGE, "options.gamma is -0.5"),
    REFUSAL(gamma_is_1, SONEW_OUT_OF_RANGE, "options.gamma is 1"),
    REFUSAL(gamma_nan, SONEW_OUT_OF_RANGE, "options.gamma is NaN"),
    REFUSAL(graft_eps_negative, SONEW_OUT_OF_RANGE, "options.graft_eps is -1"),
    REFUSAL(graft_eps_nan, SONEW_OUT_OF_RANGE, "options.graft_eps is NaN"),
    REFUSAL(weight_decay_negative, SONEW_OUT_OF_RANGE, "options.weight_decay is -0.01"),
    REFUSAL(weight_decay_nan, SONEW_OUT_OF_RANGE, "options.weight_decay is NaN"),
    REFUSAL(threads_negative, SONEW_OUT_OF_RANGE, "options.threads is -2"),
    REFUSAL(threads_1025, SONEW_OUT_OF_RANGE, "options.threads is 1025"),
    REFUSAL(statistics_unknown, SONEW_UNKNOWN_VALUE, "options.statistics is 2, must be 0 or 1"),
    REFUSAL(damping_unknown, SONEW_UNKNOWN_VALUE, "options.damping is -1"),
    REFUSAL(graft_unknown, SONEW_UNKNOWN_VALUE, "options.graft is 5, must be 0, 1, 2, 3 or 4"),
    REFUSAL(bias_correction_2, SONEW_UNKNOWN_VALUE, "options.bias_correction is 2, must be 0 or 1"),
    REFUSAL(graft_bias_correction_2, SONEW_UNKNOWN_VALUE,
            "options.graft_bias_correction is 2"),
    REFUSAL(lagged_norms_2, SONEW_UNKNOWN_VALUE, "options.lagged_norms is 2, must be -1, 0 or 1"),
    REFUSAL(nesterov_negative, SONEW_UNKNOWN_VALUE, "options.nesterov is -1, must be 0 or 1"),
    REFUSAL(rounding_unknown, SONEW_UNKNOWN_VALUE, "options.rounding is 2"),
    REFUSAL(instruction_set_unknown, SONEW_UNKNOWN_VALUE, "options.instruction_set is 5"),
    REFUSAL(instruction_set_elsewhere, SONEW_INSTRUCTION_SET,
            "\": this processor and this build have portable"),
    REFUSAL(pooling_unknown, SONEW_UNKNOWN_VALUE, "options.pooling is 4, must be 0, 1, 2 or 3"),
    REFUSAL(rank_0, SONEW_OUT_OF_RANGE, "options.rank is 0, must be 1 to 64"),
    REFUSAL(rank_65, SONEW_OUT_OF_RANGE, "options.rank is 65, must be 1 to 64"),
    REFUSAL(shrink_is_1, SONEW_OUT_OF_RANGE, "options.shrink is 1, must be in [0, 1)"),
    REFUSAL(options_reserved, SONEW_UNKNOWN_VALUE, "options.reserved[0] is 1, must be 0"),
    REFUSAL(chains_too_long, SONEW_OUT_OF_RANGE,
            "tensor \"b\" has chains of 4097 coordinates; all correlations can be pooled"),
    REFUSAL(pool_never_created, SONEW_BAD_HANDLE, "options.pool is not a live handle"),
    REFUSAL(pool_is_an_optimizer, SONEW_BAD_HANDLE, "options.pool is not a live handle"),
    REFUSAL(pool_freed, SONEW_BAD_HANDLE, "options.pool is not a live handle"),
    REFUSAL(pool_and_threads, SONEW_OUT_OF_RANGE, "options.threads is 2, must be 0 with a pool"),
    REFUSAL(pool_threads_negative, SONEW_OUT_OF_RANGE, "threads is -1, must be not negative"),
    REFUSAL(pool_threads_1025, SONEW_OUT_OF_RANGE, "threads is 1025, must be 0 to 1024"),
    REFUSAL(pool_processors_null, SONEW_NULL_POINTER, "processors is null"),
    REFUSAL(pool_processors_without_end, SONEW_OUT_OF_MEMORY,
            "out of memory: the list of processors needs"),
    REFUSAL(pool_processor_absent, SONEW_PROCESSOR, "processors[0] is 8191: "),
    REFUSAL(pool_out_null, SONEW_NULL_POINTER, "pool is null"),
    REFUSAL(pool_free_of_plan, SONEW_BAD_HANDLE, "pool is not a live handle"),
    REFUSAL(options_not_filled_in, SONEW_STRUCT_SIZE,
            "options.struct_size is 0, expected 136: call sonew_options_init() first"),
    REFUSAL(options_of_odd_size, SONEW_STRUCT_SIZE, "options.struct_size is 135"),
    REFUSAL(tensors_null, SONEW_NULL_POINTER, "tensors is null"),
    REFUSAL(no_tensors, SONEW_NO_TENSORS, "the list of tensors is empty"),
    REFUSAL(too_many_tensors_to_list, SONEW_OUT_OF_MEMORY,
            "out of memory: the list of tensors needs"),
    REFUSAL(name_null, SONEW_NULL_POINTER, "tensors[1].name is null"),
    REFUSAL(name_empty, SONEW_TENSOR_NAME, "tensor 1 is named \"\""),
    REFUSAL(name_with_newline, SONEW_TENSOR_NAME, "tensor 1 is named \"a\\nb\""),
    REFUSAL(name_not_utf8, SONEW_INVALID_STRING, "tensors[1].name is not valid UTF-8"),
    REFUSAL(name_twice, SONEW_DUPLICATE_NAME, "two tensors are named \"a\""),
    REFUSAL(nine_dimensions, SONEW_TOO_MANY_DIMENSIONS, "tensor \"a\" has 9 dimensions"),
    REFUSAL(dimensions_without_end, SONEW_TOO_MANY_DIMENSIONS, "tensor \"a\" has"),
    REFUSAL(forgotten_ndim, SONEW_OUT_OF_RANGE,
            "tensors[0].dims[1] is 3, must be 0 from ndim on"),
    REFUSAL(chains_unknown, SONEW_UNKNOWN_VALUE, "tensors[0].chains is 4, must be 0, 1, 2 or 3"),
    REFUSAL(update_unknown, SONEW_UNKNOWN_VALUE, "tensors[1].update is 2"),
    REFUSAL(tensor_reserved, SONEW_UNKNOWN_VALUE, "tensors[1].reserved[1] is 7, must be 0"),
    REFUSAL(dtype_unknown, SONEW_UNKNOWN_VALUE, "tensors[0].dtype is 5, must be 0, 1, 2, 3 or 4"),
    REFUSAL(grad_dtype_unknown, SONEW_UNKNOWN_VALUE, "tensors[1].grad_dtype is -1"),
    REFUSAL(state_dtype_unknown, SONEW_UNKNOWN_VALUE, "tensors[1].state_dtype is 9"),
    REFUSAL(master_2, SONEW_UNKNOWN_VALUE, "tensors[0].master is 2, must be 0 or 1"),
    REFUSAL(state_is_f16, SONEW_STATE_DTYPE, "tensor \"b\": the state cannot be F16"),
    REFUSAL(master_of_f64, SONEW_MASTER_DTYPE, "tensor \"b\": master weights are F32"),
    REFUSAL(size_overflows, SONEW_SIZE_OVERFLOW,
            "tensor \"a\": the size of [18446744073709551615, 2] overflows"),
    REFUSAL(size_is_2_60, SONEW_SIZE_OVERFLOW, "[1152921504606846976] overflows"),
    REFUSAL(size_is_2_59, SONEW_OUT_OF_MEMORY, "out of memory"),
    REFUSAL(size_is_2_50, SONEW_OUT_OF_MEMORY, "out of memory"),
    REFUSAL(out_null, SONEW_NULL_POINTER, "optimizer is null"),
    REFUSAL(unknown_field, SONEW_UNKNOWN_FIELD,
            "options has a field that this version does not know, at byte 142"),
    REFUSAL(init_null, SONEW_NULL_POINTER, "options is null"),
    REFUSAL(init_too_small, SONEW_STRUCT_SIZE, "the size of options is 8, expected 136"),
    {0},
};
