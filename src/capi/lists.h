/******************************************************************************
 * Lists of float and double pointers
 *
 * Since C11, lists of float * and of double * are taken as they are, without a
 * cast, where functions take a list of parameters, gradients or state planes, and
 * where sonew_flat_pointers() writes one. What is no list of pointers is refused by
 * the compiler as before. In C99 and C++ such lists are declared as void *, or cast.
 * A program that defines a function of such a name itself, to load the library at
 * run time, puts the name in parentheses.
 ******************************************************************************/

#if !defined(__cplusplus) && defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L

#define SONEW_PARAMS(list)                                                     \
    _Generic((list),                                                           \
        float **: (void *const *)(list),                                       \
        float *const *: (void *const *)(list),                                 \
        double **: (void *const *)(list),                                      \
        double *const *: (void *const *)(list),                                \
        default: (list))

#define SONEW_GRADS(list)                                                      \
    _Generic((list),                                                           \
        void **: (const void *const *)(list),                                  \
        void *const *: (const void *const *)(list),                            \
        float **: (const void *const *)(list),                                 \
        float *const *: (const void *const *)(list),                           \
        const float **: (const void *const *)(list),                           \
        const float *const *: (const void *const *)(list),                     \
        double **: (const void *const *)(list),                                \
        double *const *: (const void *const *)(list),                          \
        const double **: (const void *const *)(list),                          \
        const double *const *: (const void *const *)(list),                    \
        default: (list))

/* Lists that are written. */
#define SONEW_PARAMS_OUT(list)                                                 \
    _Generic((list),                                                           \
        float **: (void **)(list),                                             \
        double **: (void **)(list),                                            \
        default: (list))

#define SONEW_GRADS_OUT(list)                                                  \
    _Generic((list),                                                           \
        void **: (const void **)(list),                                        \
        float **: (const void **)(list),                                       \
        const float **: (const void **)(list),                                 \
        double **: (const void **)(list),                                      \
        const double **: (const void **)(list),                                \
        default: (list))

#define sonew_step(optimizer, step, params, grads, count)                      \
    sonew_step(optimizer, step, SONEW_PARAMS(params), SONEW_GRADS(grads), count)
#define sonew_save(optimizer, path, params, count)                             \
    sonew_save(optimizer, path, SONEW_PARAMS(params), count)
#define sonew_save_to_memory(optimizer, params, count, data, capacity, size)   \
    sonew_save_to_memory(optimizer, SONEW_PARAMS(params), count, data,         \
                         capacity, size)
#define sonew_load(optimizer, path, options, params, count)                    \
    sonew_load(optimizer, path, options, SONEW_PARAMS(params), count)
#define sonew_save_begin(optimizer, path, params, count, saving)               \
    sonew_save_begin(optimizer, path, SONEW_PARAMS(params), count, saving)
#define sonew_stages_begin(optimizer, step, params, grads, count, stages)      \
    sonew_stages_begin(optimizer, step, SONEW_PARAMS(params),                  \
                       SONEW_GRADS(grads), count, stages)
#define sonew_set_state(optimizer, step_count, planes, count)                  \
    sonew_set_state(optimizer, step_count, SONEW_GRADS(planes), count)
#define sonew_flat_pointers(optimizer, flat_params, flat_grads, length,        \
                            offsets, params, grads)                            \
    sonew_flat_pointers(optimizer, flat_params, flat_grads, length, offsets,   \
                        SONEW_PARAMS_OUT(params), SONEW_GRADS_OUT(grads))

#endif
