/******************************************************************************
 * sonew.h - SONew, the Sparsified Online Newton method, as a C library
 *
 * SONew (arXiv 2311.10085) is an optimizer for training neural networks. Its time
 * and memory are proportional to the number of parameters: with the defaults a step
 * takes about twice as long as a fused AdamW's, and the state 12 bytes per parameter
 * where AdamW's takes 8. It takes fewer steps on problems that Adam finds hard: its
 * preconditioner is not a diagonal but a tridiagonal or banded matrix. The
 * program computes gradients; this library keeps the second-order state and
 * updates the parameters in place.
 *
 * A complete example, for a network of one layer, which goes on from a checkpoint if
 * there is one:
 *
 *    sonew_tensor tensors[2];
 *    sonew_tensors_init(tensors, 2, sizeof *tensors); // the defaults
 *    tensors[0].name = "fc1.weight";
 *    tensors[0].ndim = 2;
 *    tensors[0].dims[0] = 1000;                       // [out, in]
 *    tensors[0].dims[1] = 784;
 *    tensors[1].name = "fc1.bias";
 *    tensors[1].ndim = 1;
 *    tensors[1].dims[0] = 1000;
 *    tensors[1].update = SONEW_UPDATE_ADAM;           // plain Adam
 *
 *    sonew_options options;
 *    sonew_options_init(&options, sizeof options);    // the defaults
 *    options.band = 1;                                // tridiagonal
 *    sonew_optimizer *optimizer = NULL;
 *    if (sonew_create(&options, tensors, 2, &optimizer) != SONEW_OK) {
 *        fprintf(stderr, "%s\n", sonew_last_error());
 *        exit(1);
 *    }
 *
 *    void *params[] = {weight, bias};                 // buffers of floats
 *    const void *grads[] = {weight_grad, bias_grad};
 *    const char *path = "checkpoint.safetensors";
 *    FILE *file = fopen(path, "rb");                  // is there a checkpoint?
 *    if (file != NULL) {
 *        fclose(file);
 *        if (sonew_load(optimizer, path, NULL, params, 2) != SONEW_OK) {
 *            fprintf(stderr, "%s\n", sonew_last_error());
 *            exit(1);
 *        }
 *    }
 *    sonew_optimizer_info info;
 *    sonew_info(optimizer, &info, sizeof info);
 *    sonew_step_options step;
 *    sonew_step_options_init(&step, sizeof step);
 *    for (uint64_t i = info.step_count; i < 1000; i++) {
 *        compute_gradients(weight, bias, weight_grad, bias_grad);
 *        step.lr = 1e-3;
 *        if (sonew_step(optimizer, &step, params, grads, 2) != SONEW_OK)
 *            fprintf(stderr, "%s\n", sonew_last_error());
 *        if (i % 100 == 99 && sonew_save(optimizer, path, params, 2) != SONEW_OK)
 *            fprintf(stderr, "%s\n", sonew_last_error());
 *    }
 *    sonew_free(optimizer);
 *
 * The functions of this example come first; then options and tensors, what can be relied
 * on, and everything else. For C++ there is sonew.hpp, for XLA sonew_xla.h.
 ******************************************************************************/

#ifndef SONEW_H
#define SONEW_H

/* Generated from src/capi with cbindgen: change it there. */

#include <stddef.h>
#include <stdint.h>

/* The version of this header. */
#define SONEW_VERSION_MAJOR 0
#define SONEW_VERSION_MINOR 2
#define SONEW_VERSION_PATCH 0
#define SONEW_VERSION_NUMBER \
    (SONEW_VERSION_MAJOR * 1000000 + SONEW_VERSION_MINOR * 1000 + SONEW_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/**
 * A step in stages. Begun by sonew_stages_begin() or sonew_plan_stages_begin(); freed
 * when it is done, or by sonew_stages_abort(), or with its optimizer or plan.
 */
typedef struct sonew_stages sonew_stages;

/** A plan. Created by sonew_plan_create(), freed by sonew_plan_free(). */
typedef struct sonew_plan sonew_plan;

/** A pool. Created by sonew_pool_create(), freed by sonew_pool_free(). */
typedef struct sonew_pool sonew_pool;

/** An open file. Created by sonew_file_open(), freed by sonew_file_free(). */
typedef struct sonew_file sonew_file;

/**
 * A save that runs in the background. Begun by sonew_save_begin(), ended by
 * sonew_save_finish().
 */
typedef struct sonew_saving sonew_saving;

/** An optimizer. Created by sonew_create(), freed by sonew_free(). */
typedef struct sonew_optimizer sonew_optimizer;

typedef struct sonew_step_options sonew_step_options;
typedef struct sonew_load_options sonew_load_options;
typedef struct sonew_options sonew_options;
typedef struct sonew_tensor sonew_tensor;
typedef struct sonew_settings sonew_settings;
typedef struct sonew_optimizer_info sonew_optimizer_info;
typedef struct sonew_view sonew_view;
typedef struct sonew_contents sonew_contents;
typedef struct sonew_planes sonew_planes;
typedef struct sonew_buffers sonew_buffers;
typedef int32_t sonew_status;

/******************************************************************************
 * Optimizer
 *
 * An optimizer is a handle that owns the state of a list of tensors. Parameters
 * and gradients stay in the caller's buffers.
 ******************************************************************************/

/**
 * Creates an optimizer for count tensors, with all state zero, and writes its
 * handle to *optimizer. options may be NULL, which means the defaults. What is
 * passed is copied and may be freed after the call.
 *
 * Memory (sonew_info() tells the total): for each parameter, band + 2
 * numbers of state (2 with pooling or SONEW_UPDATE_ADAM) in the tensor's state_dtype, one
 * more with SONEW_GRAFT_NORMALIZED_RMSPROP, and 4 bytes with master weights; with a
 * graft and without lagged_norms, one more number for the direction; with pooling, the
 * plane "pooled"; and scratch memory for each thread that a step of this many parameters
 * uses, which with SONEW_POOLING_ALL can be more than the state. No thread is created before a
 * step needs one.
 *
 * Errors: SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD, SONEW_UNKNOWN_VALUE,
 * SONEW_BAD_HANDLE for the pool, SONEW_OUT_OF_RANGE, SONEW_INVALID_STRING,
 * SONEW_NO_TENSORS, SONEW_TENSOR_OPTION, SONEW_TENSOR_NAME, SONEW_DUPLICATE_NAME,
 * SONEW_TOO_MANY_DIMENSIONS, SONEW_SIZE_OVERFLOW, SONEW_SHARD, SONEW_STATE_DTYPE,
 * SONEW_MASTER_DTYPE, SONEW_INSTRUCTION_SET, SONEW_HEADER_LENGTH (the tensors
 * are so many, or their names so long, that they could not be saved),
 * SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_create(const sonew_options *options,
                          const sonew_tensor *tensors,
                          size_t count,
                          sonew_optimizer **optimizer);

/**
 * Frees an optimizer and its state, and its threads if no other optimizer or
 * plan has used them. NULL is allowed and does nothing. Views of the state
 * become invalid. A live file is written to disk, as by sonew_sync(), and
 * unlocked; to know whether that worked, call sonew_sync() first. A handle
 * that was freed before gets SONEW_BAD_HANDLE. One that another thread is
 * using gets SONEW_BUSY and is not freed. Since 0.2.
 */
sonew_status sonew_free(sonew_optimizer *optimizer);

/**
 * Makes the optimizer what it was when it was created: all state zero, step counts 0, the
 * first settings of tensors, no texts. Views of the state become invalid. A live file that
 * held the state is closed, as by sonew_free().
 *
 * Errors: SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_reset(sonew_optimizer *optimizer);

/**
 * Creates a copy of an optimizer, with its options, tensors, settings, texts and state, and
 * writes its handle to *copy. The state of the copy is in memory, also if that of the
 * original is in a file; both use one pool. From then on both give the same bits for the same
 * steps. Master weights that sonew_reset_master() has discarded are not copied.
 *
 * Errors: SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_clone(const sonew_optimizer *optimizer,
                         sonew_optimizer **copy);

/******************************************************************************
 * Step
 *
 * The settings of one step are passed to that step.
 ******************************************************************************/

/**
 * Fills in the defaults. Pass sizeof *step for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_step_options_init(sonew_step_options *step, size_t size);

/**
 * Takes one step: params[i] and the state of tensor i are updated from
 * grads[i], and the step count grows by one. params and grads have count
 * entries each, which is the number of tensors; each points to as many elements
 * as its tensor has, in the tensor's order: params[i] to elements of the tensor's
 * dtype, grads[i] to elements of its grad_dtype. Both are float unless the tensor says
 * otherwise. step may be NULL, which means the defaults.
 *
 * grads[i] may be NULL: tensor i then takes no part in the step: its
 * parameters, its state and its own step count, which its bias correction
 * follows, stay as they are. So tensors may also be stepped in separate calls,
 * with NULL for the others: they get the same bits as in one call for all,
 * except with clip_norm, and the optimizer's step count grows with each call.
 * (The learning rate of each step is the caller's in any case.) params[i] may
 * not be NULL. Two gradients may be the same buffer; parameters may not
 * overlap any other buffer of the call, nor the state. A parameter that is
 * used in two places of a model is one tensor, passed once with the sum of its
 * gradients.
 *
 * If all gradients are NULL, the step is none of any tensor and counts for the optimizer
 * alone, so that processes which hold different tensors of one model keep one step count.
 * A program that has forgotten its gradients sees it by the gradient norm, which is 0,
 * and by the step counts of its tensors: sonew_info(), sonew_get_settings().
 *
 * A step takes at most 20 KiB of the calling thread's stack, as every other way to
 * take one does.
 *
 * Errors: SONEW_NON_FINITE_GRADIENT, SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD,
 * SONEW_UNKNOWN_VALUE, SONEW_OUT_OF_RANGE, SONEW_TENSOR_COUNT,
 * SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_OVERLAP, SONEW_PARTIAL_SUMS (with pooled
 * shards), SONEW_OUT_OF_MEMORY. On a live file SONEW_FORKED and, in the first step after a
 * sync, SONEW_IO. Since 0.2.
 */
sonew_status sonew_step(sonew_optimizer *optimizer,
                        const sonew_step_options *step,
                        void *const *params,
                        const void *const *grads,
                        size_t count);

/**
 * What a step does about a gradient with a NaN, an infinity, or a number
 * whose square overflows (after grad_scale).
 */
enum {
  /**
   * Check every gradient first. If one is not finite, change nothing and
   * return SONEW_NON_FINITE_GRADIENT.
   */
  SONEW_SKIP = 0,
  /**
   * Do not check, unless clip_norm does. The state and parameters of a tensor
   * with such a gradient may become useless.
   */
  SONEW_UNCHECKED = 1,
};
typedef int32_t sonew_non_finite;

/**
 * The options of one step. Fill them in once with sonew_step_options_init(),
 * and change fields between steps as needed.
 */
struct sonew_step_options {
  /** Set by sonew_step_options_init(). */
  size_t struct_size;
  /** Learning rate, finite and not negative. Default 0.001. */
  double lr;
  /**
   * Every gradient is multiplied by this first (for example 1 / loss scale,
   * or 1 / number of micro-batches); finite and positive. Default 1.
   */
  double grad_scale;
  /**
   * The weight of this step's gradients with SONEW_WEIGHTED_SUM, finite and
   * not negative. Must be 1 with SONEW_MOVING_AVERAGE. Default 1.
   */
  double statistics_weight;
  /**
   * Clipping: if the gradient norm, sqrt(sum |g|^2) over all tensors and
   * after grad_scale, exceeds this, all gradients are multiplied by
   * clip_norm / norm. Finite and positive, or 0 for no clipping. Clipping
   * reads every gradient first, and refuses those that are not finite
   * whatever non_finite says. Default 0.
   */
  double clip_norm;
  /**
   * The decay rate of the momentum in this step, at least 0 and less than 1, for
   * schedules; -1 for that of the options. Bias correction follows the product of
   * the betas of all steps. Default -1.
   */
  double beta1;
  /** The same in place of the options' beta2. Default -1. */
  double beta2;
  /** One of sonew_non_finite. Default SONEW_SKIP. */
  int32_t non_finite;
  /** Must be 0. */
  int32_t reserved[1];
};

/******************************************************************************
 * One buffer for all tensors
 *
 * Programs that keep all parameters in one allocation, and all gradients in another, make
 * the lists of pointers that sonew_step(), sonew_save() and all others take once:
 *
 *    void *params[16];
 *    const void *grads[16];
 *    sonew_flat_pointers(optimizer, params_memory, grads_memory, num_parameters, NULL,
 *                        params, grads);
 *    ...
 *    sonew_step(optimizer, &step, params, grads, 16);
 *    sonew_save(optimizer, path, params, 16);
 ******************************************************************************/

/**
 * Writes where each tensor lies in a buffer of all parameters to params[i], and where its
 * gradient lies in a buffer of all gradients to grads[i], for all tensors of the optimizer.
 * Each buffer has length elements. The tensors follow one another in their order, and length
 * must be the sum of their elements; or offsets has the offset of each of them, in elements,
 * and none may reach past length. Otherwise offsets is NULL. All tensors must have one type
 * of parameters, and one of gradients. Of parameters or of gradients, buffer and list may
 * both be NULL.
 *
 * The buffers are not looked at. Pointers are checked by the calls that they are passed to,
 * which refuse parameters that overlap.
 *
 * Errors: SONEW_WRONG_LENGTH, SONEW_OUT_OF_RANGE for an offset, SONEW_DTYPE_DIFFERS,
 * SONEW_SIZE_OVERFLOW, SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_flat_pointers(const sonew_optimizer *optimizer,
                                 void *flat_params,
                                 const void *flat_grads,
                                 size_t length,
                                 const size_t *offsets,
                                 void **params,
                                 const void **grads);

/******************************************************************************
 * Save and load
 *
 * A checkpoint is a safetensors file. It holds the state planes by name
 * ("fc1.weight/momentum"), the parameters if they were passed
 * ("fc1.weight/parameter"), options and step counts in the metadata, and
 * checksums of all of these. Training that continues from a checkpoint gives
 * the same bits as training that never stopped.
 ******************************************************************************/

/**
 * Saves the state, the options, the step count, each tensor's step count,
 * learning-rate scale and weight decay, and the texts of the program, to a file.
 * params (one buffer for each tensor, as in sonew_step(); only read) saves the
 * parameters, too; to save the state alone, pass NULL and a count of 0.
 *
 * The new file is first written under the name path with ".sonew-tmp" added (of a name
 * of more than 245 bytes, under its beginning and a checksum with that added),
 * then flushed to disk, then renamed to path. If a save fails or the process
 * dies, the previous file is still there. (Exception: if only the last
 * operation fails, which makes the new name durable, the new file is there.)
 * A temporary file that a killed process leaves behind is removed by the next
 * save to path. A second save to the same path at the same time is refused, and
 * so is one to a live file in use, also if it came into use meanwhile. path may
 * be the file that the state is mapped from privately.
 *
 * A symbolic link is followed, and stays. What is not a regular file is refused,
 * and so is a file that something is mounted on by itself: it cannot be
 * replaced. The new file has the mode of the one that it replaces, and belongs
 * to the user who saves.
 *
 * If path is the live file that holds the state, this does what sonew_sync()
 * does. A live file holds no parameters except as master weights: if params are
 * given, every tensor must have master weights.
 *
 * Errors: SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_HEADER_LENGTH, SONEW_FILE_LOCKED, SONEW_FORKED,
 * SONEW_PLANE_MISSING, SONEW_PARTIAL_SUMS, SONEW_IO, SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_save(const sonew_optimizer *optimizer,
                        const char *path,
                        void *const *params,
                        size_t count);

/**
 * Saves what sonew_save() saves to memory: capacity bytes from data on. Writes the size of the
 * checkpoint in bytes to *size. With a capacity of 0, data is NULL and only the size is told,
 * which stays the same until the next step, load or change of a setting or text. What is
 * written is what the file would be: sonew_load() takes it (sonew_load_options.data), and in
 * a file it is a checkpoint. Parameters may not overlap it.
 *
 * Errors: SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_WRONG_LENGTH (capacity
 * is less than the size), SONEW_OVERLAP, SONEW_HEADER_LENGTH, SONEW_PARTIAL_SUMS,
 * SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_save_to_memory(const sonew_optimizer *optimizer,
                                  void *const *params,
                                  size_t count,
                                  void *data,
                                  size_t capacity,
                                  size_t *size);

/**
 * Fills in the defaults. Pass sizeof *options for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_load_options_init(sonew_load_options *options, size_t size);

/**
 * Loads a file that sonew_save() wrote into an optimizer that was created with
 * the same options (except threads and instruction_set) and the same tensors,
 * in any order. options may be NULL, which means the defaults; with it,
 * differences can be allowed. params (one buffer for each tensor, as in
 * sonew_step(); written) loads the parameters, too, and the file must have
 * them; to load the state alone, pass NULL and a count of 0. path is NULL if options.data has
 * a checkpoint in memory. Numbers among the options are the same if float cannot tell them
 * apart: 0.9 and 0.9f are. The optimizer keeps its own.
 *
 * Unless options.convert_state is 1, nothing is converted: state planes, and
 * parameters that are loaded, must have the same types in the file as in the
 * optimizer. One exception: if the
 * file has master weights of a tensor but no parameters, the parameters become
 * the master weights rounded to nearest, as after every step. A live file on
 * which no step was taken yet, at step 0, has neither: the parameters then stay
 * as they are, because the first step begins with them.
 *
 * options.mode says how the file is opened and where the state is kept
 * afterwards. In every mode all reading is done before anything is changed;
 * with SONEW_READ the state is therefore in memory twice for a moment. Views of
 * the state become invalid. If the state was in a live file before, that file
 * is closed, as by sonew_free().
 *
 * Errors: SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD, SONEW_UNKNOWN_VALUE,
 * SONEW_INVALID_STRING, SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW,
 * SONEW_OVERLAP, SONEW_IO, SONEW_NOT_A_CHECKPOINT,
 * SONEW_FILE_LENGTH, SONEW_FORMAT_VERSION, SONEW_CHECKSUM,
 * SONEW_TENSOR_MISSING, SONEW_TENSOR_DIFFERS, SONEW_DTYPE_DIFFERS,
 * SONEW_OPTION_DIFFERS, SONEW_PLANE_MISSING, SONEW_RENAME,
 * SONEW_FILE_LOCKED, SONEW_TORN, SONEW_NOT_A_LIVE_FILE, SONEW_SHARED_OPTION,
 * SONEW_NO_OLDER_COPY, SONEW_ROWS_MISSING, SONEW_STEPS_DIFFER, SONEW_FILES_DIFFER,
 * SONEW_ROWS_DIFFER, SONEW_MAPPED_ROWS, SONEW_MEMORY, SONEW_UNKNOWN_NAME (in overrides),
 * SONEW_OUT_OF_RANGE (a number too large for its type,
 * with convert_state), SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_load(sonew_optimizer *optimizer,
                        const char *path,
                        const sonew_load_options *options,
                        void *const *params,
                        size_t count);

/**
 * Creates an optimizer from a file alone, with its options, tensors, state and
 * step counts, and writes its handle to *optimizer. mode is one of
 * sonew_load_mode. From then on the optimizer gives the same bits as one that
 * sonew_create() has made of the same options and tensors, and that has loaded
 * the file with sonew_load(). threads and instruction_set are in no file and have
 * their defaults.
 *
 * sonew_info() and sonew_get_tensor() tell its tensors. Parameters
 * stay in the file: sonew_file_read() reads them. For other threads, and for
 * parameters that are loaded together with the state, take options and tensors
 * from the file, and create and load the optimizer: see "Contents of a file".
 *
 * Errors: SONEW_UNKNOWN_VALUE, and those of sonew_load() for a file that is no
 * checkpoint, is damaged or in use, or is no live file; SONEW_INSTRUCTION_SET;
 * SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_open(const char *path,
                        int32_t mode,
                        sonew_optimizer **optimizer);

/**
 * How sonew_load() and sonew_open() open a file, and where the state is kept
 * afterwards.
 */
enum {
  /** The file is read into memory, and every checksum is verified. */
  SONEW_READ = 0,
  /**
   * The file is mapped copy-on-write, which takes constant time for any
   * size. A page is read when it is first needed and copied when it is first
   * written; the file is never changed. Its header and sizes are checked, but
   * not the checksums of the state; parameters that are loaded are read and
   * verified. While the file is mapped, no program may write to it or truncate
   * it; it may be removed, or replaced by a new file, as sonew_save() does.
   */
  SONEW_MAP_PRIVATE = 1,
  /**
   * The state stays in the file, which sonew_make_live() made. The file is
   * locked until the optimizer is freed or loads another file. Its options
   * and tensors must be the optimizer's.
   */
  SONEW_MAP_SHARED = 2,
};
typedef int32_t sonew_load_mode;

/**
 * Which differences between file and optimizer a load accepts, and how the file
 * is opened. Fill it in with sonew_load_options_init(); by default no
 * difference is accepted.
 */
struct sonew_load_options {
  /** Set by sonew_load_options_init(). */
  size_t struct_size;
  /**
   * Tensors whose name in the file differs from that in the optimizer: rename_count
   * pairs of names in UTF-8, 2 * rename_count strings in all, of each pair first the
   * name in the file. NULL with a count of 0. All renames happen at once, so that two
   * tensors can swap their names. Default NULL.
   */
  const char *const *renames;
  /** The number of pairs in renames. Default 0. */
  size_t rename_count;
  /**
   * path_count further files that, together with the path of the call, hold the
   * tensors: those that several machines have saved, each with its tensors or its rows
   * of them (sonew_tensor.first_row). NULL with a count of 0. Each tensor is put
   * together from the rows that the files have; whole tensors may be read from shards,
   * and shards from whole tensors. All files must be of one step. Rows that several
   * files have must be the same bits. Tensors that only the files have belong to other
   * machines. Only for SONEW_READ. Default NULL.
   *
   * The state is the same to the bit however the rows are divided, except where a chain
   * was cut or is cut now (with all but SONEW_CONTIGUOUS_LINES): a sub-diagonal's entry for two
   * elements that were in different shards, or are now, is 0 until steps fill it.
   */
  const char *const *paths;
  /** See paths. Default 0. */
  size_t path_count;
  /**
   * 1: keep the optimizer's options, and its learning-rate scale and weight
   * decay of every tensor, where the file has others. Its band may then be
   * smaller than the file's, and its tensors may have another
   * sonew_tensor.update, as long as the file has every plane that they need.
   * Master weights may be missing from the file, in which case the next step
   * copies them from the parameters, or be in the file only. Default 0.
   */
  int32_t override_options;
  /**
   * 1: load the tensors that are in both the file and the optimizer, at least
   * one, and leave the optimizer's other tensors, with their own step counts,
   * as they are. Default 0.
   */
  int32_t common_tensors_only;
  /**
   * One of sonew_load_mode. SONEW_MAP_SHARED cannot be combined with any of
   * the other fields. Default SONEW_READ.
   */
  int32_t mode;
  /**
   * 1: load the older of the two copies in a live file, the state before its last
   * step. For processes that train together: those that were killed may lie one step
   * apart, and go on from the same one. With SONEW_MAP_SHARED it becomes the current
   * copy, and is synced. Default 0.
   */
  int32_t older_copy;
  /**
   * 1: convert state planes that have another type in the file, as a step of
   * the optimizer would have stored them: rounded as its options say, and zero
   * below the smallest normal number. A number that is too large for its type
   * is refused: SONEW_OUT_OF_RANGE. The random bits of SONEW_STOCHASTIC are
   * those of the last step that the tensor took part in: a function of the
   * optimizer's seed, that step count, the index of the tensor in the
   * optimizer, that of the plane, and that of the element. Tensors that are
   * converted are read into memory in every mode. Master weights and
   * parameters are not converted. Default 0.
   */
  int32_t convert_state;
  /** Must be 0. */
  int32_t reserved[1];
  /**
   * override_count names of settings of which the optimizer keeps its own where the file
   * has others, as override_options does of all: of fields of sonew_options, as in "beta1",
   * where "weight_decay" also stands for that of every tensor, of "lr_scale", their
   * learning-rate scale, and of "update" and "master", the fields of sonew_tensor. NULL with
   * a count of 0. Default NULL.
   */
  const char *const *overrides;
  /** See overrides. Default 0. */
  size_t override_count;
  /**
   * A checkpoint in memory, of size bytes, in place of a file: the path of the call is then
   * NULL, and mode is SONEW_READ. The bytes are those that sonew_save_to_memory() or any
   * other save has written; after the call nothing refers to them. Default NULL.
   */
  const void *data;
  /** See data. Default 0. */
  size_t size;
};

/******************************************************************************
 * Texts of the program
 *
 * What a program must know to go on besides parameters and state: the position of its data
 * loader, the state of its random generator, the epoch. It gives the optimizer short texts,
 * each under a key, and every save writes them together with the state, in one file that is
 * complete or not there. A load replaces them by those of the file (of several files, by
 * those of the first). sonew_file_text() reads them without an optimizer. In the file they
 * are metadata of the format, with the keys "sonew.text.KEY".
 *
 * There may be 1000 texts, each of any length that the file has room for: its header holds
 * the texts beside the list of tensors, and safetensors limits it to 100,000,000 bytes. A
 * save that needs more is refused: SONEW_HEADER_LENGTH. Binary state, as that of many random
 * generators, is written in hexadecimal or base64. A live file has no texts, because its
 * header never changes.
 ******************************************************************************/

/**
 * Keeps a text under a key, in place of the one that had it. The key is UTF-8, not empty, and
 * has no control characters; the text is UTF-8. Both are copied. text may be NULL, which
 * removes the text of the key if there is one.
 *
 * Errors: SONEW_INVALID_STRING, SONEW_TEXT, SONEW_LIVE_TEXT, SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_set_text(sonew_optimizer *optimizer,
                            const char *key,
                            const char *text);

/**
 * Writes the text of a key to *text, or NULL if there is none. The text lives until the next
 * call that sets a text of the optimizer, loads into it, resets or frees it.
 *
 * Errors: SONEW_INVALID_STRING, SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_get_text(const sonew_optimizer *optimizer,
                            const char *key,
                            const char **text);

/******************************************************************************
 * Options
 *
 * The options that an optimizer is created with. They do not change over its
 * life.
 ******************************************************************************/

/**
 * Fills in the defaults. Pass sizeof *options for size, from which the library
 * knows which fields the caller has: the two may be of different versions.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_options_init(sonew_options *options, size_t size);

/** The largest sonew_options.band. */
#define SONEW_MAX_BAND 16

/** The largest sonew_options.band with pooling. */
#define SONEW_MAX_POOLED_BAND 64

/** The largest sonew_options.rank. */
#define SONEW_MAX_POOLED_RANK 64

/** The most coordinates of a chain with SONEW_POOLING_ALL. */
#define SONEW_MAX_POOLED_LENGTH 4096

/** How gradients enter the diagonal and the sub-diagonals H. */
enum {
  /** H <- beta2 H + (1 - beta2) g g^T, an exponential moving average. */
  SONEW_MOVING_AVERAGE = 0,
  /**
   * H <- H + w g g^T with w = sonew_step_options.statistics_weight: the
   * paper's online-convex form. H is then never bias-corrected.
   */
  SONEW_WEIGHTED_SUM = 1,
};
typedef int32_t sonew_statistics;

/** What is added to the diagonal before it is inverted. */
enum {
  /** eps */
  SONEW_ABSOLUTE = 0,
  /**
   * max(eps l1, 1e-24), where l1 is the largest H[j][j] + |H[j][j-1]| of the
   * bias-corrected H over the whole tensor; for the first coordinate of a
   * chain it is H[j][j] + |H[j+1][j]|. This damping does not depend on the
   * scale of the loss. It takes a pass over the statistics of its own.
   */
  SONEW_RELATIVE = 1,
  /**
   * max(eps h, 1e-24), where h is the largest H[j][j] of the bias-corrected H over the
   * whole tensor, as the tensor's last step left it. Its first step, and one after which
   * all were zero, takes that of its own H. Entries that are infinite do not count.
   */
  SONEW_RELATIVE_LAGGED = 2,
};
typedef int32_t sonew_damping;

/**
 * Grafting: in each tensor the update u takes the norm of another method's
 * update a, u <- u |a| / |u|. A learning rate that suits the other method is then one to
 * begin with; SONew often bears more (docs/choosing.md).
 */
enum {
  /** No grafting: u keeps its own norm. */
  SONEW_GRAFT_NONE = 0,
  /** a = g */
  SONEW_GRAFT_SGD = 1,
  /** a = m^ */
  SONEW_GRAFT_MOMENTUM = 2,
  /** a = m^ / (sqrt(v) + graft_eps), with v the diagonal without damping. */
  SONEW_GRAFT_ADAM = 3,
  /**
   * a = q / (sqrt(r) + graft_eps), with q = g / |g| and
   * r <- beta2 r + (1 - beta2) q^2. r is one more state plane, "rms".
   */
  SONEW_GRAFT_NORMALIZED_RMSPROP = 4,
};
typedef int32_t sonew_graft;

/**
 * How the correlations of a chain's coordinates are estimated. An extension, not in the
 * paper: the units of a layer see the same inputs, so that the correlations of these are
 * nearly the same for all of them. So the chains of a tensor share one structure R of
 * correlations, and each coordinate keeps a diagonal d of its own. With q = sqrt(d^ + eps) and
 * z = g / q, the direction is u = q^-1 R^-1 q^-1 m^, and a tensor keeps some part of
 * P <- beta2 P + (1 - beta2) sum over chains of z z'.
 *
 * The state has 2 numbers for each parameter, and for each tensor one plane "pooled" of sums,
 * whose rows have as many numbers as a chain, L. It is float32, or float64 where that is
 * computed in. If norms are lagged, correlations are those of the step before, too, and the
 * last step's sums follow those up to then. Chains end at every row, or column:
 * SONEW_CONTIGUOUS is as SONEW_CONTIGUOUS_LINES, SONEW_STRIDED as SONEW_STRIDED_LINES. A
 * tensor with one chain gains nothing from pooling. If a tensor is divided into shards, the
 * sums of a step must be added up over them before the next step: see sonew_partial_sums().
 */
enum {
  /** Every chain has its own sub-diagonals: the method of the paper. */
  SONEW_POOLING_NONE = 0,
  /**
   * A band of P: R[j][j + i] = (1 - shrink) P[j][j + i] / sqrt(P[j][j] P[j + i][j + i])
   * for i = 1 .. band, and R[j][j] = 1; R^-1 is X as usual, but of this band.
   * "pooled" is [band + 1, L], row i with P[j][j + i]; or [2, band + 1, L] if lagged.
   */
  SONEW_POOLING_BAND = 1,
  /**
   * Some directions U, sonew_options.rank of them or L if that is less, which follow the
   * leading eigenvectors of P, the mean of whose diagonal is p. Y is the average of P U;
   * when products have been added to it, U becomes U2, the Q of the QR factors of Y, and Y
   * becomes Y U' U2. With lambda = max(diag(U' Y) / p, 0) and
   * rest = (L - sum of lambda) / (L - rank), both shrunk:
   * lambda <- (1 - shrink) lambda + shrink, and none less than rest;
   * R^-1 = (I - U (1 - rest / lambda) U') / rest; where rest is not above gamma, R = I.
   * "pooled" is [2 rank + 1, L], with P[j][j] in row 0, then Y, then U, a
   * direction a row; or [3 rank + 2, L] if lagged, U again last.
   */
  SONEW_POOLING_RANK = 2,
  /**
   * All of P, with R as for a band, for chains of up to SONEW_MAX_POOLED_LENGTH. Where
   * the Schur complement of a position, given those before it, is not above gamma, it
   * loses its correlations with these. "pooled" is [L, L], of which row i has P[i][j] for
   * j >= i, and zeros; or [2, L, L] if lagged. A step computes a Cholesky decomposition of R.
   */
  SONEW_POOLING_ALL = 3,
};
typedef int32_t sonew_pooling;

/**
 * How numbers are rounded to 16 bits. SONEW_F32 and SONEW_F64 always round to
 * nearest.
 *
 * Accuracy: with u = 2^-8 for SONEW_BF16 and 2^-11 for SONEW_F16, rounding to
 * nearest has a relative error of at most u; stochastic rounding has one of
 * less than 2 u, and of zero on average. State is rounded once per step, so
 * that after t steps the error of a plane is at most about
 * min(t, 1 / (1 - beta)) u times the largest number that it has held. The error
 * of a direction is that times the condition number of the preconditioner,
 * which is about the inverse of the smallest ratio of a Schur complement to
 * its diagonal entry. Parameters without master weights are rounded once per
 * step, too. Gradients are not rounded, and arithmetic is float32 or float64.
 */
enum {
  /**
   * To nearest, ties to even. An exponential moving average stops changing
   * where its changes are less than half a unit in the last place.
   */
  SONEW_NEAREST = 0,
  /**
   * Up or down at random, with probabilities that make the expected value
   * exact. Reproducible: the random bits are a function of seed, step, tensor,
   * plane and index.
   */
  SONEW_STOCHASTIC = 1,
};
typedef int32_t sonew_rounding;

/** An instruction set. */
enum {
  /**
   * The one that the environment variable SONEW_INSTRUCTION_SET names
   * (portable, avx2, avx512 or neon); if it is not set, empty or auto, the
   * best that the processor has.
   */
  SONEW_ISA_AUTO = 0,
  /** Plain code, on every processor. */
  SONEW_ISA_PORTABLE = 1,
  /** AVX2 and FMA of x86-64. */
  SONEW_ISA_AVX2 = 2,
  /** AVX-512 of x86-64. */
  SONEW_ISA_AVX512 = 3,
  /** Advanced SIMD of 64-bit Arm. */
  SONEW_ISA_NEON = 4,
};
typedef int32_t sonew_isa;

/**
 * The options of an optimizer. Fill them in with sonew_options_init(), then
 * change those that should differ from the defaults.
 */
struct sonew_options {
  /** Set by sonew_options_init(). */
  size_t struct_size;
  /**
   * Number of sub-diagonals, 0 to SONEW_MAX_BAND, or to SONEW_MAX_POOLED_BAND with
   * pooling: 0 is a diagonal, 1 a tridiagonal matrix. The state has band + 2 numbers
   * for each parameter, and 2 with pooling. SONEW_POOLING_RANK and SONEW_POOLING_ALL do
   * not look at it. Default 1.
   */
  int32_t band;
  /**
   * The largest number of threads that a step uses, the calling thread
   * included, up to 1024. 0 means one for each processor that the process may
   * run on; 1 means that no step creates a thread. All optimizers and plans that
   * ask for the same number share one pool. Results do not depend on it. The
   * threads of OpenMP keep processors busy after their work is done, which slows a step
   * down: see "Pool". Default 0.
   */
  int32_t threads;
  /** Decay rate of the momentum, at least 0 and less than 1. Default 0.9. */
  double beta1;
  /**
   * Decay rate of the diagonal, the sub-diagonals and the plane "rms", at
   * least 0 and less than 1. Default 0.99.
   */
  double beta2;
  /** Amount of damping, finite and not negative; see damping. Default 1e-3. */
  double eps;
  /**
   * Threshold of edge removal, at least 0 and less than 1: a coordinate whose
   * Schur complement, or one of whose pivots, is not above gamma times the
   * diagonal entry is preconditioned by its diagonal alone. With gamma 0,
   * where statistics are singular and damping is negligible, those quantities
   * are only rounding errors, and a direction may overflow. Default 0.01.
   */
  double gamma;
  /**
   * Added to the square root in the grafts of Adam and normalized RMSProp,
   * and in the plain Adam update; finite and not negative. Where the root is 0 and this,
   * too, the result is 0. Default 0: then the scale of the loss has no effect.
   */
  double graft_eps;
  /**
   * Decoupled weight decay that every tensor starts with, finite and not
   * negative; sonew_set_settings() changes it for one tensor. Default 0.
   */
  double weight_decay;
  /** Seed of stochastic rounding. Default 0. */
  uint64_t seed;
  /** One of sonew_statistics. Default SONEW_MOVING_AVERAGE. */
  int32_t statistics;
  /** One of sonew_damping. Default SONEW_RELATIVE_LAGGED. */
  int32_t damping;
  /** One of sonew_graft. Default SONEW_GRAFT_ADAM. */
  int32_t graft;
  /**
   * 1: bias correction, with t the number of the steps that the tensor took
   * part in: divide the momentum by
   * 1 - beta1^t, and the statistics by 1 - beta2^t if they are an exponential
   * moving average. 0: none. Default 1.
   */
  int32_t bias_correction;
  /**
   * 1: bias-correct the diagonal in the Adam graft, too. 0: do not. Has no
   * effect if bias_correction is 0. Default 1.
   */
  int32_t graft_bias_correction;
  /**
   * One of sonew_rounding, for 16-bit state, and for 16-bit parameters
   * without master weights. Default SONEW_NEAREST.
   */
  int32_t rounding;
  /**
   * One of sonew_isa: the instruction set that steps use. Results do not
   * depend on it. Default SONEW_ISA_AUTO.
   */
  int32_t instruction_set;
  /**
   * 1: grafting with the norms of the step before: a tensor's update is scaled by
   * |a| / |u| of the last step that it took part in, so that a step goes through
   * memory once. Its first step, and one after a zero update, takes its own. An
   * update whose norm would be more than twice that which the norms of its own step
   * give it is brought to these, by a second pass. (Parameters of 16 bits without master
   * weights always take two, because what they were cannot be restored.) With pooling,
   * correlations are those of the step before, too. 0: with those of the step
   * itself. -1: 1 with pooling, otherwise 0. Default -1.
   */
  int32_t lagged_norms;
  /**
   * 1: Nesterov momentum: in the direction and in the norms of the grafts of Adam
   * and momentum, m^ is replaced by (beta1 m + (1 - beta1) g) / (1 - beta1^t), with
   * m the momentum after the step. 0: m^ itself. Default 0.
   */
  int32_t nesterov;
  /**
   * One of sonew_pooling: whether the chains of a tensor share their correlations.
   * Default SONEW_POOLING_NONE.
   */
  int32_t pooling;
  /**
   * The pool whose threads steps use. Then threads must be 0. Default NULL: the
   * one that all who ask for the same number of threads share.
   */
  const sonew_pool *pool;
  /**
   * With pooling, by which part of themselves correlations are taken to be smaller
   * than their estimates, in [0, 1). Default 0.04.
   */
  double shrink;
  /**
   * With SONEW_POOLING_RANK, the number of directions, 1 to SONEW_MAX_POOLED_RANK.
   * Others do not look at it. Default 16.
   */
  int32_t rank;
  /** Must be 0. */
  int32_t reserved[1];
};

/******************************************************************************
 * Tensors
 *
 * A tensor is a parameter buffer of the caller: contiguous, its last dimension
 * fastest. Its coordinates form one or more chains, and neighbours in a chain
 * share band entries.
 *
 * Tensors declare the types of their parameters and gradients, which may differ
 * between tensors. Buffers are passed as void pointers to elements of these types:
 * float (SONEW_F32), double (SONEW_F64), or 16-bit patterns such as uint16_t or a
 * 16-bit type of the compiler (SONEW_BF16, SONEW_F16). A buffer is aligned to the size
 * of its elements.
 *
 * Master weights. A tensor with master set keeps a float32 copy of its
 * parameters in its state, because 16-bit parameters would lose updates that
 * are smaller than their rounding error. It also makes the saved state a whole
 * checkpoint. The first step copies the master weights from the parameters,
 * even if the tensor has no gradient in that step. After that, every step
 * updates the master weights, and overwrites the parameters with them, rounded
 * to nearest.
 ******************************************************************************/

/**
 * Fills in the defaults of a list of count tensors, which still need names and
 * dimensions. Pass sizeof *tensors for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_tensors_init(sonew_tensor *tensors,
                                size_t count,
                                size_t size);

/** The largest number of dimensions of a tensor. */
#define SONEW_MAX_DIMS 8

/**
 * Which coordinates are neighbours. Chains should run along a unit's inputs;
 * along its outputs the method works much worse. The names say where neighbours lie in
 * memory, and so mean the same in languages that count dimensions from the other end.
 */
enum {
  /**
   * The whole tensor is one chain in the order of memory, last dimension
   * fastest: for weights stored [out, in].
   */
  SONEW_CONTIGUOUS = 0,
  /**
   * The whole tensor is one chain, first dimension fastest: for weights
   * stored [in, out]. Neighbours lie a stride apart.
   */
  SONEW_STRIDED = 1,
  /**
   * As SONEW_CONTIGUOUS, broken at the end of each line along the last dimension: a
   * chain for each row.
   */
  SONEW_CONTIGUOUS_LINES = 2,
  /**
   * As SONEW_STRIDED, broken at the end of each line along the first dimension: a
   * chain for each column.
   */
  SONEW_STRIDED_LINES = 3,
};
typedef int32_t sonew_chains;

/** How a tensor is updated. */
enum {
  /** The SONew direction, grafted as the options say. */
  SONEW_UPDATE_SONEW = 0,
  /**
   * Plain Adam, m^ / (sqrt(H^) + graft_eps), H^ without damping: for biases
   * and normalization layers. Has only the planes "momentum" and "diagonal".
   */
  SONEW_UPDATE_ADAM = 1,
};
typedef int32_t sonew_update;

/** The type of a buffer's elements. */
enum {
  /** That which follows from the tensor's other types. */
  SONEW_DTYPE_DEFAULT = 0,
  /** IEEE 754 binary32: float. */
  SONEW_F32 = 1,
  /** IEEE 754 binary64: double. */
  SONEW_F64 = 2,
  /** bfloat16: the upper half of a binary32. */
  SONEW_BF16 = 3,
  /** IEEE 754 binary16. */
  SONEW_F16 = 4,
};
typedef int32_t sonew_dtype;

/**
 * One tensor. Fill it in with sonew_tensors_init(), then give it a name and
 * dimensions. Every default is zero but that of struct_size, so in C99 an initializer
 * does the same: {.struct_size = sizeof(sonew_tensor), .name = "a"}.
 */
struct sonew_tensor {
  /** Set by sonew_tensors_init(). The same for all tensors of a list. */
  size_t struct_size;
  /**
   * Name in UTF-8, not empty, without control characters, and different from
   * the names of the other tensors; copied. Checkpoints identify tensors by
   * it. Default NULL, which is refused.
   */
  const char *name;
  /** Number of dimensions, 0 (a scalar) to SONEW_MAX_DIMS. Default 0. */
  size_t ndim;
  /**
   * The dimensions, slowest first; those beyond ndim 0. A tensor of which one is 0
   * has no elements: its buffers may be NULL, it takes part in no step, and it
   * appears in files.
   */
  size_t dims[SONEW_MAX_DIMS];
  /**
   * In training on several machines: the tensor is a shard, the rows from first_row on
   * of a larger one that has whole_rows rows; a row is an index of its first dimension.
   * Files keep it, so that those of all machines can be loaded by any number of others: see
   * sonew_load_options.paths. Steps depend on it only with pooled correlations, which are
   * those of the larger tensor: see sonew_partial_sums(). Default 0.
   */
  size_t first_row;
  /** See first_row. Default 0: the tensor is no shard. */
  size_t whole_rows;
  /** One of sonew_chains. Default SONEW_CONTIGUOUS. */
  int32_t chains;
  /** One of sonew_update. Default SONEW_UPDATE_SONEW. */
  int32_t update;
  /**
   * One of sonew_dtype: the type of the parameters, and of a direction.
   * Default SONEW_DTYPE_DEFAULT: SONEW_F32. If it or state_dtype is SONEW_F64, the
   * arithmetic is float64, otherwise float32.
   */
  int32_t dtype;
  /**
   * One of sonew_dtype: the type of the gradients. Default SONEW_DTYPE_DEFAULT:
   * that of dtype.
   */
  int32_t grad_dtype;
  /**
   * One of sonew_dtype: the type of the state planes except "master". May not
   * be SONEW_F16, whose range is too small for squared gradients. Default
   * SONEW_DTYPE_DEFAULT: SONEW_F64 if dtype is SONEW_F64, otherwise SONEW_F32.
   */
  int32_t state_dtype;
  /**
   * 1: keep float32 master weights in the state; see above. Not allowed if dtype is
   * SONEW_F64. Default 0.
   */
  int32_t master;
  /** Must be 0. */
  int32_t reserved[2];
  /**
   * The tensor's own options, as a group of parameters has them: its band, rank, beta1, beta2,
   * eps, gamma, shrink, graft_eps and weight_decay. Any number of tensors may point to one struct,
   * which is copied. In threads, instruction_set and pool it is not looked at; in all other
   * options it must agree with those of the optimizer, of which it is best made as a copy.
   * Default NULL: the options of the optimizer.
   */
  const sonew_options *options;
};

/******************************************************************************
 * What is computed, and what can be relied on
 *
 * What it computes, for one chain of coordinates j, gradient g, step t from
 * 1, band b:
 *
 *    m         <- beta1 m + (1 - beta1) g                    momentum
 *    H[j][j]   <- beta2 H[j][j] + (1 - beta2) g[j]^2         diagonal
 *    H[j+k][j] <- beta2 H[j+k][j] + (1 - beta2) g[j] g[j+k]  sub-diagonals,
 *                                                            k = 1..b
 *    m^ = m / (1 - beta1^t)
 *    H^ = H / (1 - beta2^t) + eps I                          damping
 *    u  = X m^                                               direction
 *    u <- u |a| / |u|                                        grafting: u takes
 *                                          the norm of another method's a
 *    p <- p - lr (u + weight_decay p)
 *
 * X minimises tr(X H^) - log det X among the positive definite matrices of
 * band b: its inverse agrees with H^ on the band.
 *
 * What can be relied on:
 *
 * - A call that does not return SONEW_OK has changed nothing and written no
 *   output: no parameter, no state, no file, no step count.
 *   sonew_last_error() says why it failed. Nothing is clamped, guessed or
 *   copied silently.
 * - The same inputs give the same bits, for any number of threads, with every
 *   instruction set, whatever floating-point mode the caller has set.
 * - A pointer may be NULL only where its function says so; NULL, misaligned
 *   and overlapping buffers are refused. The library cannot check whether a
 *   buffer is as long as its tensor.
 * - Different handles may be used by different threads at once. One handle is
 *   for one thread at a time: a second thread gets SONEW_BUSY. Only a pool, and
 *   sonew_info(), are for any number of threads.
 * - A handle is a number that is never used again, not an address. A freed
 *   handle is always refused.
 * - A failed allocation is a status: SONEW_OUT_OF_MEMORY (or SONEW_IO, SONEW_THREADS
 *   where the system says it in its own way), which every function may return but
 *   those that free, abort, finish, initialize structs or answer questions. What the C
 *   library itself allocates, above all when a thread starts, is excepted:
 *   docs/guarantees.md lists it. Each thread that is in a call sets aside 256 KiB of
 *   address space for this, which are used only if memory is lacking.
 * - Nothing is printed, no signal handlers are installed, and no threads are
 *   used but the library's own, which end when the last optimizer or plan that
 *   has used them is freed.
 * - A thread that is cancelled with pthread_cancel() while it is in a call
 *   completes the call, and ends at its next cancellation point. A call must not
 *   be left by longjmp() out of a signal handler: its handles then stay
 *   SONEW_BUSY for ever and are never freed, what it was writing is incomplete,
 *   and the thread keeps the library's floating-point mode and cannot be
 *   cancelled.
 * - After fork() the child can use every handle, but not its parent's live
 *   files and running saves: SONEW_FORKED. It is recognized in a new pid
 *   namespace, too, from Linux 4.14 on.
 *
 * Conventions. Strings are UTF-8 and end with a NUL; strings that are passed in
 * are copied. All structs are filled in by the library, with the size that they have in
 * the caller's header: what a call takes, by the struct's init function or by the
 * function that asks for it, before the caller changes fields; what a call tells, by
 * that call. So structs can get more fields in later versions, and old programs work
 * with new libraries, and new programs with old libraries.
 * For truth values 0 means false and 1 means true, and nothing else is
 * accepted. Fields called reserved must be 0. The arithmetic is float32, or
 * float64 for tensors with float64 parameters or state; because it may be
 * float32, a number that does not fit into float32 is out of range.
 ******************************************************************************/

/******************************************************************************
 * Settings of one tensor
 *
 * A tensor is named by its index in the list of tensors that the optimizer was created
 * with. Its settings can be changed at any time between calls: ask for them, change
 * some, and set them.
 *
 *    sonew_settings settings;
 *    sonew_get_settings(optimizer, 1, &settings, sizeof settings);
 *    settings.lr_scale = 0.1;
 *    sonew_set_settings(optimizer, 1, &settings);
 ******************************************************************************/

/**
 * Writes a tensor of an optimizer to *tensor, as sonew_create() takes it, with every
 * type named. Its name, and its own options if it has some, live as long as the optimizer.
 * Pass sizeof *tensor for size.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_get_tensor(const sonew_optimizer *optimizer,
                              size_t index,
                              sonew_tensor *tensor,
                              size_t size);

/**
 * Writes the settings of a tensor to *settings. Pass sizeof *settings for size.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_get_settings(const sonew_optimizer *optimizer,
                                size_t index,
                                sonew_settings *settings,
                                size_t size);

/**
 * Changes the settings of a tensor to *settings.
 *
 * Errors: SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD, SONEW_UNKNOWN_TENSOR,
 * SONEW_OUT_OF_RANGE; in a live file SONEW_FORKED and SONEW_IO. Since 0.2.
 */
sonew_status sonew_set_settings(sonew_optimizer *optimizer,
                                size_t index,
                                const sonew_settings *settings);

/**
 * The numbers of a tensor's state besides its planes: |a| / |u| of its last step, with
 * lagged_norms; what momentum and statistics were divided by in it, where betas
 * have differed from those of the options (otherwise 0); and the largest entry of its
 * bias-corrected diagonal after it, with SONEW_RELATIVE_LAGGED.
 */
#define SONEW_SCALARS 4

/** The settings of a tensor. Fill them in with sonew_get_settings(). */
struct sonew_settings {
  /** Set by sonew_get_settings(). */
  size_t struct_size;
  /**
   * The factor by which the learning rate is multiplied; finite and not negative, 1
   * at first.
   */
  double lr_scale;
  /** Decoupled weight decay; finite and not negative, at first that of the options. */
  double weight_decay;
  /**
   * The number of the steps that the tensor took part in: its bias correction counts
   * these. A step in which it had no gradient is not among them. In a live file less
   * than 2^47.
   */
  uint64_t step_count;
  /**
   * The numbers of the tensor's state besides its planes: see SONEW_SCALARS. Zeros
   * before its first step. For programs that keep state in arrays of their own.
   */
  double scalars[SONEW_SCALARS];
};

/******************************************************************************
 * About an optimizer
 ******************************************************************************/

/**
 * Writes the options of an optimizer to *options, as sonew_options_init() writes the defaults,
 * but pool, which is NULL. Options of single tensors are in sonew_get_tensor(). Pass sizeof
 * *options for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_get_options(const sonew_optimizer *optimizer,
                               sonew_options *options,
                               size_t size);

/**
 * Writes what there is to know of an optimizer to *info, also while another thread
 * uses it: then as it was when the call before that one ended. Pass sizeof *info for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_info(const sonew_optimizer *optimizer,
                        sonew_optimizer_info *info,
                        size_t size);

/** What can be asked of an optimizer as a whole; see sonew_info(). */
struct sonew_optimizer_info {
  /**
   * The number of steps taken so far, with those in which some tensors took no
   * part, and without those that were refused or skipped. Bias correction counts
   * those of each tensor: sonew_settings.step_count. Loading sets it to the file's
   * count.
   */
  uint64_t step_count;
  /**
   * The gradient norm of the last step: sqrt(sum |g|^2) over all tensors, after
   * grad_scale and before clipping; 0 if no tensor had a gradient. NaN if there is
   * none: see has_gradient_norm.
   */
  double gradient_norm;
  /** The number of tensors. */
  size_t tensor_count;
  /** The size of the state in bytes. */
  size_t state_bytes;
  /**
   * How much memory the optimizer holds, in bytes: the state, directions if a graft
   * needs them, and scratch memory for each thread. Names and other small lists are
   * not counted, nor is state that is mapped from a file. A step allocates nothing
   * that grows with the number of parameters.
   */
  size_t memory_bytes;
  /**
   * The largest number of threads that a step uses, the calling thread included:
   * while the threads of its pool are running, those that the system gave,
   * otherwise those that were asked for.
   */
  size_t threads;
  /**
   * The name of the instruction set in use: "avx512", "avx2", "neon" or "portable".
   * Results do not depend on it. The string is never freed.
   */
  const char *instruction_set;
  /**
   * 1: gradient_norm is a number. 0: there is none, because no step was taken since the
   * optimizer was created, loaded or set; or the last one was skipped
   * (SONEW_NON_FINITE_GRADIENT); or it did not compute the norm, or had gradients that
   * are not finite: with SONEW_UNCHECKED and no clip_norm a step may not read all
   * gradients beforehand. Programs that are compiled with -ffast-math need this flag,
   * because there a comparison does not find a NaN.
   */
  int32_t has_gradient_norm;
  /** 0. */
  int32_t reserved[1];
};

/******************************************************************************
 * State
 *
 * The state of a tensor is a list of planes: "momentum", "diagonal", "band.1"
 * up to "band.b" with b = options.band, "rms" with
 * SONEW_GRAFT_NORMALIZED_RMSPROP, and "master" with master weights. With pooled
 * correlations there is "pooled" in place of the bands: sums that belong to the whole
 * tensor, whose numbers and type sonew_pooling describes. A tensor
 * with SONEW_UPDATE_ADAM has only "momentum", "diagonal" and, with master
 * weights, "master". "master" is SONEW_F32, the others but "pooled" have the tensor's
 * state_dtype. A plane but "pooled" has one number for each parameter, in the tensor's own
 * order: its element j belongs to parameter j. In "band.k" that is H[j+k][j],
 * where j+k is the coordinate k places after j in the chain; for the last k
 * coordinates of a chain it is 0.
 ******************************************************************************/

/**
 * Writes a view of a tensor's state plane to *view. Pass sizeof *view for size.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_UNKNOWN_PLANE, SONEW_STRUCT_SIZE.
 * Since 0.2.
 */
sonew_status sonew_plane_view(const sonew_optimizer *optimizer,
                              size_t tensor,
                              size_t plane,
                              sonew_view *view,
                              size_t size);

/**
 * Replaces the optimizer's state by a copy of the caller's: its step count, which becomes that
 * of every tensor, too (sonew_set_settings() changes that of one), and count state planes,
 * those of the first tensor first, each tensor's in the order of their indices. For programs
 * that kept the state in arrays of their own. "master" is taken as set, so that the next step
 * does not copy it from the parameters, and "pooled" of shards as reduced. Views of the state
 * become invalid; a live file that held the state is closed, as by sonew_free().
 *
 * Errors: SONEW_PLANE_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW,
 * SONEW_OVERLAP, SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_set_state(sonew_optimizer *optimizer,
                             uint64_t step_count,
                             const void *const *planes,
                             size_t count);

/**
 * Discards the master weights of all tensors that have them, so that the next
 * step copies them from the parameters again. Call this after changing
 * parameters between steps; otherwise the next step overwrites the change.
 *
 * A live file keeps the master weights of the last step until the next step is
 * complete. If the process dies before that, a load with parameters continues as
 * if this had not been called; after a load without them, the next step copies
 * the caller's parameters.
 *
 * Errors: in a live file, SONEW_FORKED, SONEW_IO and SONEW_OUT_OF_MEMORY. Since
 * 0.2.
 */
sonew_status sonew_reset_master(sonew_optimizer *optimizer);

/**
 * A view of a state plane, not a copy. What it points to may only be read, and
 * not by another thread during a call with the optimizer. data is the state
 * after the last step, without bias correction. A view is valid until the next
 * call that steps, loads into or frees the optimizer: request a new one then.
 */
struct sonew_view {
  /** The first element, aligned to 64 bytes. */
  const void *data;
  /** Number of elements. */
  size_t len;
  /** The tensor's name. */
  const char *tensor;
  /** The plane's name. */
  const char *plane;
  /** Number of dimensions. */
  size_t ndim;
  /**
   * The plane's dimensions, slowest first: those of the tensor, but for "pooled"; 0 beyond
   * ndim.
   */
  size_t dims[SONEW_MAX_DIMS];
  /** One of sonew_dtype: the type of data's elements. */
  int32_t dtype;
  /** How many planes the tensor has, this one included: at least two. */
  int32_t plane_count;
  /**
   * The number of the steps that the tensor took part in: the t of its bias
   * correction.
   */
  uint64_t step_count;
};

/******************************************************************************
 * Live files, and saving in the background
 *
 * A live file holds the optimizer's state while it works: steps read and write
 * the file through a shared mapping, and it may be larger than memory. It holds
 * the state twice. Each step reads one copy and writes the other, and a single
 * store at the end of the step makes the written copy the current one. Views of
 * the state must therefore be requested again after each step.
 *
 * A process that dies at any moment, SIGKILL included, leaves a file that
 * opens at a completed step, the last one or the one before. If every tensor
 * has master weights, that file is a whole checkpoint. (Before the first step
 * it has no master weights, and sonew_load() leaves the parameters as they are.)
 *
 * A power failure, or a crash of the machine, can destroy more. What survives
 * it:
 *
 * - of a saved file, everything, as soon as sonew_save() or
 *   sonew_save_finish() has returned; before that, the file that it replaces.
 *   This holds whether the state is in memory, mapped privately or in a live
 *   file: the last completed save always survives;
 * - of a live file, the step that sonew_sync() or sonew_free() wrote to disk,
 *   as long as at most one step was begun since; settings and resets of master
 *   weights that were made since may be lost. After more steps the file may
 *   be lost: it then opens with SONEW_TORN, and never with a state that mixes
 *   two steps. To be safe, save to another path from time to time;
 * - of state that is in memory or mapped privately, only what was saved.
 *
 * A copy of a live file that was made while the file was in use counts as after
 * a power failure. A copy of one that is not in use is as good as the file; the
 * first time that it is opened, its checksums are verified in every mode.
 ******************************************************************************/

/**
 * Moves the optimizer's state into a new live file. The optimizer then works on
 * that file until it is freed or loads another file. To continue with the file
 * later, open it with sonew_open() and SONEW_MAP_SHARED, or create an optimizer
 * with the same options and tensors, and load the file in that mode.
 *
 * The new file replaces the one at path, as sonew_save() does. All its space,
 * twice that of the state, is allocated now, so that a full disk is reported as
 * a status. (A file system that allocates at every write, as btrfs does for
 * files with snapshots, may still run out of space later, and the process then
 * gets a SIGBUS: keep live files on ext4, xfs or tmpfs.) The file is locked
 * while the optimizer works on it: another process, or another optimizer, gets
 * SONEW_FILE_LOCKED. A file system without locks is refused. A forked child must
 * not use it: everything is refused there except sonew_free() and functions that
 * only read. The child shares the lock until it ends or calls sonew_free().
 *
 * Learning-rate scales and weight decay are written to the file when they are
 * set. If path is the live file that already holds the state, this does what
 * sonew_sync() does. Views of the state become invalid.
 *
 * Errors: SONEW_FILE_LOCKED, SONEW_FORKED, SONEW_OUT_OF_RANGE (a step count of
 * the optimizer or of a tensor is 2^47 or more), SONEW_HEADER_LENGTH, SONEW_SHARD (one with
 * pooled correlations), SONEW_LIVE_TEXT (the optimizer has texts), SONEW_IO, SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_make_live(sonew_optimizer *optimizer,
                             const char *path);

/**
 * Writes a live file's last step to disk, with checksums of its state, and
 * returns when that is done. sonew_free() does the same.
 *
 * Errors: SONEW_NOT_LIVE; SONEW_FORKED; SONEW_IO: the state is unchanged, but
 * may not be on disk, or the file was removed, so that nobody can open it any
 * more. What the sync before has written is still there. Since 0.2.
 */
sonew_status sonew_sync(const sonew_optimizer *optimizer);

/**
 * Begins a save in the background: copies what sonew_save() would save, and
 * returns while a new thread writes the copy to the file. Meanwhile the
 * optimizer may step, be changed or be freed, and the parameters may change; the
 * process may change its working directory.
 * Writes a handle for sonew_save_finish() to *saving.
 *
 * Until the copy is written, it takes as much memory as the state and the
 * parameters. The thread is created even if options.threads is 1.
 *
 * params and count are as in sonew_save(): one buffer for each tensor, or NULL and 0
 * for the state alone.
 *
 * Errors: SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW,
 * SONEW_PARTIAL_SUMS, SONEW_OUT_OF_MEMORY, SONEW_THREADS, and for a live file those of
 * sonew_save(). Since 0.2.
 */
sonew_status sonew_save_begin(const sonew_optimizer *optimizer,
                              const char *path,
                              void *const *params,
                              size_t count,
                              sonew_saving **saving);

/**
 * Waits for a background save and its thread to end, and returns the status of
 * the save. Whatever that is, the handle is then invalid, except after
 * SONEW_BUSY. Every save must be finished with this function: it holds memory
 * until then. NULL is allowed and does nothing.
 *
 * Errors: those of sonew_save(); SONEW_FORKED in a child of the process that
 * began it. Since 0.2.
 */
sonew_status sonew_save_finish(sonew_saving *saving);

/**
 * Checks a whole file: its header, its sizes and every checksum. Changes
 * nothing.
 *
 * Errors: SONEW_NOT_A_CHECKPOINT, SONEW_FILE_LENGTH, SONEW_FORMAT_VERSION,
 * SONEW_CHECKSUM, SONEW_IO. For a live file also SONEW_TORN, SONEW_FILE_LOCKED,
 * and SONEW_UNSYNCED if the process died before it synced the file: such a file
 * can be loaded, but has no checksums of its last step. Since 0.2.
 */
sonew_status sonew_verify(const char *path);

/******************************************************************************
 * Contents of a file
 *
 * What a checkpoint or a live file holds, without an optimizer: options,
 * tensors, and the state planes and parameters themselves.
 *
 * An optimizer for the tensors of a file that differs from that of the file,
 * in its threads for example, or in the type of its state, is made of these
 * parts:
 *
 *    sonew_file *file = NULL;
 *    sonew_contents contents;
 *    sonew_options options;
 *    if (sonew_file_open("step-1000.safetensors", &file) != SONEW_OK) return 1;
 *    sonew_file_info(file, &contents, sizeof contents);
 *    sonew_file_options(file, &options, sizeof options);
 *    options.threads = 4;
 *    sonew_tensor *tensors = calloc(contents.tensor_count, sizeof *tensors);
 *    for (size_t i = 0; i < contents.tensor_count; i++)
 *        sonew_file_tensor(file, i, &tensors[i], sizeof tensors[i]);
 *    sonew_create(&options, tensors, contents.tensor_count, &optimizer);
 *    sonew_file_free(file);
 *    sonew_load(optimizer, "step-1000.safetensors", NULL, params, count);
 ******************************************************************************/

/**
 * Opens a checkpoint or a live file for reading, and writes a handle to *file.
 * Its header and sizes are checked, as by sonew_load(); sonew_file_read() checks
 * what it reads, and sonew_verify() everything.
 *
 * As long as the handle exists, the file stays open, and no optimizer can work on
 * it if it is a live file. A live file in use is refused.
 *
 * Errors: SONEW_IO, SONEW_NOT_A_CHECKPOINT, SONEW_FILE_LENGTH,
 * SONEW_FORMAT_VERSION, SONEW_CHECKSUM, SONEW_FILE_LOCKED, SONEW_TORN,
 * SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_file_open(const char *path,
                             sonew_file **file);

/**
 * Writes what the file is to *contents. Pass sizeof *contents for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_file_info(const sonew_file *file,
                             sonew_contents *contents,
                             size_t size);

/**
 * Writes the options of the optimizer that wrote the file to *options, as
 * sonew_options_init() writes the defaults. threads and instruction_set are in no
 * file and have their defaults. Pass sizeof *options for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_file_options(const sonew_file *file,
                                sonew_options *options,
                                size_t size);

/**
 * Writes a tensor of the file to *tensor, as sonew_create() takes it, with every type
 * named. index is from 0, in the order of the optimizer that wrote the file. The name
 * lives as long as the handle. Pass sizeof *tensor for size.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_file_tensor(const sonew_file *file,
                               size_t index,
                               sonew_tensor *tensor,
                               size_t size);

/**
 * Writes the settings that a tensor of the file has to *settings. Pass sizeof *settings
 * for size.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_file_settings(const sonew_file *file,
                                 size_t index,
                                 sonew_settings *settings,
                                 size_t size);

/**
 * Writes the names, types and lengths of the arrays that the file has of a tensor to *arrays: its
 * state planes ("master" is zero where no master weights are set yet); then, if the file
 * has the parameters, "parameter". Pass sizeof *arrays for size.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_file_arrays(const sonew_file *file,
                               size_t index,
                               sonew_planes *arrays,
                               size_t size);

/**
 * Copies an array of a tensor, one of those of sonew_file_arrays(), to data, and
 * compares its checksum, if the file has one. data has one element of the array's
 * type for each element of the tensor, in the tensor's own order (of "pooled", as many as
 * sonew_file_arrays() tells), and is aligned to its elements. Of a live file the array is
 * that of the last step.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_INVALID_STRING, SONEW_PLANE_MISSING,
 * SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_CHECKSUM, SONEW_IO,
 * SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_file_read(const sonew_file *file,
                             size_t index,
                             const char *array,
                             void *data);

/**
 * Writes the text of a key, one of sonew_contents.text_keys, to *text, or NULL if the file has
 * none. It lives as long as the handle. See "Texts of the program".
 *
 * Errors: SONEW_INVALID_STRING. Since 0.2.
 */
sonew_status sonew_file_text(const sonew_file *file,
                             const char *key,
                             const char **text);

/**
 * Closes a file. NULL is allowed and does nothing. The names and texts that it has told
 * are gone then. Since 0.2.
 */
sonew_status sonew_file_free(sonew_file *file);

/** What a file is, and what it holds besides its options and tensors. */
struct sonew_contents {
  /** The step count of the state. */
  uint64_t step_count;
  /** Length of the file in bytes. */
  uint64_t file_bytes;
  /** Number of tensors. */
  size_t tensor_count;
  /** The version of its format; see docs/state-files.md. */
  int32_t format;
  /** 1: it has the parameters of every tensor, as "parameter". 0: it has none. */
  int32_t parameters;
  /** 1: it is a live file. 0: a checkpoint. */
  int32_t live;
  /**
   * 1: it is a live file that was not synced after its last step, because the
   * process that worked on it died. It can be loaded.
   */
  int32_t unsynced;
  /** The keys of its texts, sorted; they live as long as the handle. See sonew_file_text(). */
  const char *const *text_keys;
  /** How many texts it has. */
  size_t text_count;
};

/******************************************************************************
 * Pool
 *
 * A pool is a set of threads that any number of optimizers and plans share.
 * Programs that do not need a choice need no pool: all optimizers and plans of
 * a process that ask for the same number of threads share one, so that hundreds
 * of optimizers, one for each parameter, have no more threads than one has. A
 * pool of a program's own, in sonew_options.pool, keeps groups of them apart, or
 * runs their threads on chosen processors.
 *
 * Its threads start when a step first needs them, and end when the last
 * optimizer or plan that has used them is freed. If the system refuses some, steps
 * go on with those that it gives. Two steps at once divide the threads. A thread that
 * has nothing to do falls asleep after some 20 microseconds. Results do not depend on any
 * of this.
 *
 * In a program with threads of its own, as of OpenMP, both may want the same processors. That
 * does no harm where those of the program sleep between their pieces of work. Those of GNU's
 * and LLVM's OpenMP do not: for milliseconds (200 with LLVM) after a parallel region they keep
 * their processors busy, and a step that begins then has only the rest of them, and waits for
 * those of its threads that got no processor. The library cannot know of this. Run the
 * program with OMP_WAIT_POLICY=passive in its environment, or give the step only processors
 * that are free: options.threads = 1 is one thread, the calling one.
 ******************************************************************************/

/**
 * Creates a pool of up to 1024 threads, the thread that calls a step included, and
 * writes its handle to *pool. processors has the numbers, as the system counts
 * them, of count processors: the threads of the pool run on no others, while the
 * calling thread runs where it does. With count 0 they run on any, and processors
 * may be NULL. 0 threads means one for each of these processors, or for each one
 * that the process may run on. No thread of the pool starts before a step needs it.
 *
 * Any number of threads may use a pool's handle at once.
 *
 * Errors: SONEW_OUT_OF_RANGE for threads; SONEW_PROCESSOR for a processor that is
 * not there, or that the process may not run on, and on systems other than Linux
 * for any; SONEW_THREADS; SONEW_OUT_OF_MEMORY. Since 0.2.
 */
sonew_status sonew_pool_create(int32_t threads,
                               const size_t *processors,
                               size_t count,
                               sonew_pool **pool);

/**
 * Frees a pool. Optimizers and plans that were created with it keep it: it may be
 * freed before them. NULL is allowed and does nothing. Since 0.2.
 */
sonew_status sonew_pool_free(sonew_pool *pool);

/******************************************************************************
 * Stateless step
 *
 * For programs that keep parameters and state in arrays of their own. A plan
 * holds what does not change between steps; parameters, gradients and all
 * state planes are passed to each step. The optimizer above is a plan together
 * with its state, and both give the same bits.
 ******************************************************************************/

/**
 * Creates a plan for steps over count tensors and writes its handle to *plan.
 * Arguments and statuses are those of sonew_create(), except SONEW_HEADER_LENGTH: what
 * a plan works on is saved by its caller. Since 0.2.
 */
sonew_status sonew_plan_create(const sonew_options *options,
                               const sonew_tensor *tensors,
                               size_t count,
                               sonew_plan **plan);

/**
 * Frees a plan, and its threads as sonew_free() does an optimizer's. NULL is
 * allowed and does nothing. Since 0.2.
 */
sonew_status sonew_plan_free(sonew_plan *plan);

/**
 * Writes the names, types and lengths of the state planes that a tensor needs to *planes. Pass
 * sizeof *planes for size.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_plan_planes(const sonew_plan *plan,
                               size_t tensor,
                               sonew_planes *planes,
                               size_t size);

/**
 * Fills in the defaults of a list of count entries: all pointers NULL, lr_scale 1,
 * weight_decay and step_number 0. Pass sizeof *buffers for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.2.
 */
sonew_status sonew_buffers_init(sonew_buffers *buffers,
                                size_t count,
                                size_t size);

/**
 * Takes one step. buffers has one entry for each tensor, count in all. step
 * may be NULL, which means the defaults. step_number is the t of the bias
 * correction, 1 for the first step; the caller counts it. A tensor that has not
 * taken part in every step has a step_number of its own in its entry.
 *
 * Buffers that are written (params, direction, planes) may not overlap any
 * other buffer of the call. Gradients may overlap each other.
 *
 * Errors: those of sonew_step(), SONEW_WRONG_LENGTH, SONEW_PLANE_COUNT,
 * SONEW_STRUCT_SIZE, SONEW_AMBIGUOUS_TARGET. Since 0.2.
 */
sonew_status sonew_plan_step(sonew_plan *plan,
                             const sonew_step_options *step,
                             uint64_t step_number,
                             const sonew_buffers *buffers,
                             size_t count);

/**
 * The state planes that a tensor of a plan needs, or the arrays that a file has of a
 * tensor, in order.
 */
struct sonew_planes {
  /** Their names, in UTF-8, which live as long as the handle that was asked. */
  const char *const *names;
  /** Their types, each one of sonew_dtype, which live as long. */
  const int32_t *dtypes;
  /** How many there are. */
  size_t count;
  /**
   * The number of elements of each, which live as long: that of the tensor, but for
   * "pooled" (see sonew_pooling).
   */
  const size_t *lens;
};

/**
 * The buffers of one tensor for one step. Fill it in with
 * sonew_buffers_init(). Every buffer has len elements, in the tensor's order,
 * of the types that its sonew_tensor declares.
 */
struct sonew_buffers {
  /** Set by sonew_buffers_init(). The same for all entries of a list. */
  size_t struct_size;
  /**
   * Parameters, updated in place: p <- p - lr (u + weight_decay p). NULL if
   * direction is given.
   */
  void *params;
  /**
   * Receives the grafted direction u, in the type of params; NULL if params
   * is given. The caller then applies learning rate and weight decay, and the
   * plane "master" is not changed.
   */
  void *direction;
  /**
   * The gradient. NULL: the tensor takes no part in the step, and the other fields
   * are not looked at.
   */
  const void *grad;
  /**
   * Pointers to the state planes, in the order of sonew_plan_planes(), of as many
   * elements as it tells.
   * Before the first step the caller sets "master" to a copy of the
   * parameters, and all other planes to zero.
   */
  void *const *planes;
  /** The number of planes. */
  size_t plane_count;
  /** The number of elements of each other buffer; must be that of the tensor. */
  size_t len;
  /**
   * The learning rate is multiplied by this; finite and not negative.
   * Default 1.
   */
  double lr_scale;
  /**
   * Decoupled weight decay, finite and not negative. Default 0. The
   * weight_decay of sonew_options is not used here.
   */
  double weight_decay;
  /**
   * The number of the tensor's own step, 1 for the first in which it has a
   * gradient, if that is not the step_number of the call. Default 0: it is.
   */
  uint64_t step_number;
  /**
   * SONEW_SCALARS numbers of the tensor's state, zero before its first step; each
   * step in which it has a gradient updates them. May be NULL unless the plan has
   * SONEW_RELATIVE_LAGGED, which is the default, or lagged_norms, or the step betas of
   * its own.
   */
  double *scalars;
};

/******************************************************************************
 * Step in stages
 *
 * For programs that train one model on several machines (or in several
 * processes), each of which holds a part of the model. Most of a step needs
 * only neighbouring elements, but clipping, relative damping and grafting need
 * sums or maxima over whole tensors, in up to three stages. A step in stages
 * stops at each of them: the program reduces the numbers of all parts and
 * continues the step. Every machine lists all tensors, in the same order. A tensor of
 * which it has nothing has a dimension of 0, as {0, 784}. A tensor that every machine
 * holds whole is counted by one of them only. With MPI:
 *
 *    double numbers[2 * COUNT];                     // two for each tensor
 *    sonew_stages *stages = NULL;
 *    int32_t stage;
 *    status = sonew_stages_begin(optimizer, &step, params, grads, COUNT, &stages);
 *    while (status == SONEW_OK) {
 *        status = sonew_stages_next(stages, numbers, COUNT, &stage);
 *        if (status != SONEW_OK || stage == SONEW_DONE)
 *            break;
 *        for (int i = 0; i < COUNT; i++)            // those that all machines hold whole
 *            if (rank != 0 && is_whole[i])
 *                numbers[2 * i] = numbers[2 * i + 1] = 0;
 *        MPI_Allreduce(MPI_IN_PLACE, numbers, 2 * COUNT, MPI_DOUBLE,
 *                      stage == SONEW_LARGEST_L1 ? MPI_MAX : MPI_SUM, MPI_COMM_WORLD);
 *    }
 *
 * Which stages there are depends only on the options of optimizer and step, so that all
 * machines stop at the same ones, whatever tensors they have; a step that needs none is
 * done at the first sonew_stages_next(). If a machine's call fails where those of others
 * do not (SONEW_OUT_OF_MEMORY, for example), the others wait for it: repeat the call, or end the
 * program.
 *
 * If the numbers are given back unchanged, the step gives the same bits as sonew_step().
 * If they are reduced, it gives the step of the whole tensors, up to the rounding of the
 * sums, provided that tensors are cut between chains: between rows with
 * SONEW_CONTIGUOUS_LINES,
 * between columns with SONEW_STRIDED_LINES. Where a chain is cut, the edges over the cut are
 * missing. With numbers that are only compared (SONEW_LARGEST_L1) the bits are those of
 * the whole tensors. Sums are added up in another order than on one machine: that
 * changes the last bits of their float64, and so rarely one of the parameters. With
 * SONEW_STOCHASTIC, each machine draws random numbers of its own.
 *
 * With lagged norms, and damping that is lagged or absolute, no machine has to wait before its
 * parameters are updated: they have been when the step reaches SONEW_NORMS, by the norms of the
 * step before. (The first step of a tensor has none: reduce its numbers at each stage, and wait.
 * Parameters of 16 bits without master weights always take two passes: they are updated at the
 * end.) What the step measured may be reduced in the background, as by MPI_Iallreduce, while the
 * updated parameters are passed on and the next gradients are computed. Then the step is ended,
 * before the next one begins: an update whose norm was more than twice what it should have been
 * is brought back here, one gradient late. SONEW_LARGEST_L1 comes before SONEW_NORMS: pass the
 * machine's own numbers on, reduce them together with the norms, and set them when the step is
 * done, as the last of sonew_settings.scalars. examples/mpi does all of this.
 *
 * Sums can be made independent of the number of machines, and tensors with pooled correlations
 * need some more: the next two sections.
 *
 * Each machine saves its part to a file of its own, with sonew_save(), at the same step.
 * If tensors say which rows of the whole ones they are (sonew_tensor.first_row), any
 * number of machines can load these files (sonew_load_options.paths), and the program
 * `sonew merge` makes one file of them.
 *
 * While a step in stages is under way, functions that only read answer as they
 * did before it. Functions that step, save, load, sync or change a setting are
 * refused with SONEW_IN_STAGES. The buffers must stay in place and unchanged
 * until the step is done or aborted. Only gradients may be overwritten before, as by the next
 * ones: from SONEW_NORMS on they are not read any more, unless options.nesterov is 1. Freeing the
 * optimizer or plan ends the step, too. The handle of a step that has ended gets
 * SONEW_BAD_HANDLE.
 ******************************************************************************/

/**
 * Begins a step in stages of an optimizer, and writes its handle to *stages. The other
 * arguments are those of sonew_step(); the buffers are used until the step is done. This
 * call itself reads no gradient and changes no state.
 *
 * Errors: those of sonew_step(), except SONEW_NON_FINITE_GRADIENT. Since 0.2.
 */
sonew_status sonew_stages_begin(sonew_optimizer *optimizer,
                                const sonew_step_options *step,
                                void *const *params,
                                const void *const *grads,
                                size_t count,
                                sonew_stages **stages);

/**
 * Begins a step in stages of a plan, and writes its handle to *stages. The other
 * arguments are those of sonew_plan_step().
 *
 * Errors: those of sonew_plan_step(), except SONEW_NON_FINITE_GRADIENT. Since 0.2.
 */
sonew_status sonew_plan_stages_begin(sonew_plan *plan,
                                     const sonew_step_options *step,
                                     uint64_t step_number,
                                     const sonew_buffers *buffers,
                                     size_t count,
                                     sonew_stages **stages);

/**
 * Continues the step to its next stage. Writes that stage, one of sonew_stage,
 * to *stage, and its numbers to numbers: two for each of the count tensors,
 * 2 * count in all. The caller reduces them in this buffer and passes it to the
 * next call; the first call does not read it. With SONEW_DONE the step is done:
 * parameters and state are updated, an optimizer's step count has grown by one, numbers
 * are left as they are, and the handle is freed. Neither numbers nor stage may overlap a
 * buffer of the step, the state, or each other.
 *
 * Errors: SONEW_TENSOR_COUNT, SONEW_OVERLAP, SONEW_OUT_OF_RANGE
 * (a number is negative), SONEW_OUT_OF_MEMORY, SONEW_FORKED: the step is at
 * the same stage as before, and the call can be repeated.
 * SONEW_NON_FINITE_GRADIENT: a sum of squares is NaN, here or on another
 * machine; the step has ended, its handle is freed, and nothing has changed. Since 0.2.
 */
sonew_status sonew_stages_next(sonew_stages *stages,
                               double *numbers,
                               size_t count,
                               int32_t *stage);

/**
 * Aborts a step that is under way, and frees its handle. NULL is allowed and does
 * nothing.
 *
 * Of an optimizer, everything is then as it was before the step. If the state is in a
 * live file, this is possible at any stage. If it is in memory, it is possible only
 * before the first stage and at SONEW_GRADIENT_SQUARES, because the step has updated the
 * state when it reaches a later stage: SONEW_STATE_WRITTEN. Then either finish the step
 * (with this part's own numbers, if the other machines cannot be reached), or free the
 * optimizer and load its last save into another one.
 *
 * Of a plan, a step can be aborted at any stage. From SONEW_LARGEST_L1 or SONEW_NORMS
 * on, the state planes have been updated with the gradients, and the caller must restore
 * them; params or direction have not been written.
 *
 * Errors: SONEW_STATE_WRITTEN; in a live file SONEW_FORKED and SONEW_IO. Since 0.2.
 */
sonew_status sonew_stages_abort(sonew_stages *stages);

/**
 * The point that a step in stages has reached, and what its numbers are: two
 * for each tensor, both zero for a tensor that takes no part in the step.
 */
enum {
  /** The step is done; there are no numbers. */
  SONEW_DONE = 0,
  /**
   * Numbers: the sum of squares of the gradient after grad_scale, NaN if an
   * element is not finite; and 0. Reduce with a sum. Nothing has been written
   * yet. This stage exists with SONEW_SKIP, with clip_norm, and with
   * SONEW_GRAFT_NORMALIZED_RMSPROP.
   */
  SONEW_GRADIENT_SQUARES = 1,
  /**
   * Numbers: the l1 of SONEW_RELATIVE, or the h of SONEW_RELATIVE_LAGGED, which the next
   * step uses; and 0. Reduce with a maximum. The state has been updated with the
   * gradients, and with SONEW_RELATIVE_LAGGED and lagged_norms parameters may have been,
   * too. This stage exists with both.
   */
  SONEW_LARGEST_L1 = 2,
  /**
   * Numbers: the squared norm of the direction u, and that of the graft's
   * vector a. Reduce with a sum. The state has been updated with the
   * gradients and, with lagged_norms, parameters may have been by the norms of the step
   * before. This stage exists with every graft but SONEW_GRAFT_NONE.
   */
  SONEW_NORMS = 3,
};
typedef int32_t sonew_stage;

/******************************************************************************
 * Sums that do not depend on the number of machines
 *
 * If the sums of a step in stages are not to depend on the number of machines at all, not even
 * in their last bits, cut tensors between blocks (sonew_block_rows()), and reduce the numbers of blocks instead
 * of those of tensors. Each is zero on all machines but one, so that adding changes no bit.
 * Then combine them in their order, on every machine:
 *
 *    size_t blocks[COUNT], length = 0;              // once: how many blocks tensors have
 *    sonew_stages_blocks(stages, blocks, COUNT, NULL, 0);
 *    for (int i = 0; i < COUNT; i++)
 *        length += 2 * blocks[i];
 *
 *    sonew_stages_blocks(stages, blocks, COUNT, of_blocks, length);   // at each stage
 *    MPI_Allreduce(MPI_IN_PLACE, of_blocks, length, MPI_DOUBLE, op, MPI_COMM_WORLD);
 *    const double *next = of_blocks;
 *    for (int i = 0; i < COUNT; i++) {
 *        numbers[2 * i] = numbers[2 * i + 1] = 0;
 *        for (size_t block = 0; block < blocks[i]; block++, next += 2)
 *            for (int k = 0; k < 2; k++)            // with SONEW_LARGEST_L1, the larger one
 *                numbers[2 * i + k] += next[k];
 *    }
 *
 * Any number of machines then has the bits of one that has the whole tensors, with
 * sonew_step(), too: parameters, state and files. (Except where a direction is beyond the
 * range of its type, which each machine sees by its own part.) A block is 8192 elements or
 * about as many, so these are 16 bytes for every 8192 parameters of all machines together.
 ******************************************************************************/

/**
 * Writes how many blocks each of the count tensors has to blocks[i]: those of the whole
 * tensor, if it is a shard. If numbers is not NULL, writes the numbers of the stage that was
 * reached there, two for each block of all tensors, in their order: zeros for blocks of rows
 * that are not here, of tensors that take no part, and before the first stage. length is
 * the number of numbers, twice that of all blocks, and 0 with NULL. See the example above.
 * Neither blocks nor numbers may overlap a buffer of the step, the state, or each other.
 *
 * Errors: SONEW_BLOCK_CUT, SONEW_TENSOR_COUNT, SONEW_WRONG_LENGTH, SONEW_OVERLAP,
 * SONEW_OUT_OF_MEMORY; the step is where it was. Since 0.2.
 */
sonew_status sonew_stages_blocks(sonew_stages *stages,
                                 size_t *blocks,
                                 size_t count,
                                 double *numbers,
                                 size_t length);

/**
 * Writes to *rows how many rows of a tensor belong together, so that machines that cut it
 * between rows whose numbers are multiples of this have the blocks of the whole tensor: see
 * sonew_stages_blocks(). It is the number of all rows if there is no such cut, because it
 * would go through chains, the tensor is one block, or its correlations are pooled. If the tensor is a shard, the answer is
 * that of the whole one. options may be NULL, which means the defaults.
 *
 * With SONEW_CONTIGUOUS_LINES and at least two dimensions, blocks are whole lines: as many as
 * fit into 8192 elements, but so that each begins at a multiple of 16, if that is possible
 * with at most 32768. With SONEW_UPDATE_ADAM or a band of 0, they are 8192 elements.
 *
 * Errors: those of sonew_create() for options and tensors. Since 0.2.
 */
sonew_status sonew_block_rows(const sonew_options *options,
                              const sonew_tensor *tensor,
                              size_t *rows);

/******************************************************************************
 * Shards with pooled correlations
 *
 * A tensor with pooled correlations (sonew_pooling) that several machines have some rows of
 * needs sums over the chains of all of them. They are those of the step before: each machine
 * keeps the sums of all steps up to then, and what a step adds is reduced at any time between
 * that step and the next. Nothing waits for it. With MPI, for tensors of float32:
 *
 *    size_t counts[COUNT], length = 0;              // once: how many numbers tensors have
 *    for (size_t i = 0; i < COUNT; i++) {
 *        sonew_partial_sums(optimizer, i, NULL, 0, &counts[i]);
 *        length += counts[i];
 *    }
 *
 *    float *next = sums;                            // after a step
 *    for (size_t i = 0; i < COUNT; next += counts[i++])
 *        sonew_partial_sums(optimizer, i, next, counts[i], NULL);
 *    MPI_Iallreduce(MPI_IN_PLACE, sums, length, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &request);
 *    ...                                            // the next gradients are computed
 *    MPI_Wait(&request, MPI_STATUS_IGNORE);
 *    next = sums;
 *    for (size_t i = 0; i < COUNT; next += counts[i++])
 *        sonew_set_reduced_sums(optimizer, i, next, counts[i]);
 *
 * Such shards are cut between chains: their chains are rows (SONEW_CONTIGUOUS or
 * SONEW_CONTIGUOUS_LINES, with at least two dimensions), of which each machine has any number,
 * also none. What is cut through chains, as a tensor with SONEW_STRIDED_LINES between rows, is
 * refused with SONEW_SHARD: let each part be a tensor of its own, without first_row, with
 * correlations of its own. lagged_norms may not be 0, since correlations of a step itself would
 * have to be reduced within it.
 *
 * Their state cannot be in a live file, in which only steps write. Each machine's file has the
 * sums of all, which must be the same in the files of a set.
 *
 * Every machine takes the same steps: of one tensor either all have a gradient in a step, or
 * none. Then the results are those of the whole tensor, up to the rounding of sums, wherever it
 * is cut. Without a plane of the optimizer's own, as with plans, a program reduces in place what
 * these functions read and write: of the plane "pooled" the numbers from n on, n of them, with
 * n = (band + 1) L, (rank + 1) L or L L. It has to do so after a step that the tensor took part
 * in, and at no other time, and to leave it out where a machine has no rows of the tensor: these
 * add zeros.
 ******************************************************************************/

/**
 * Writes what the optimizer has of the sums of products of a tensor's last step, of the chains
 * that are here, to sums, which has room for capacity numbers: double if the tensor's
 * parameters or state are SONEW_F64, otherwise float. Writes how many numbers these are to
 * *count, which may be NULL: (band + 1) L, (rank + 1) L or L L with L coordinates in a chain, and
 * 0 for a tensor that has no pooled correlations, or those of the step itself. With a capacity
 * of 0, sums is NULL, and only the count is told.
 *
 * All of them are 0 where nothing is to be added up: for tensors that are whole, that took no
 * part in the last step, or of which no rows are here, and after sonew_set_reduced_sums(). So
 * the sums of all tensors may be passed on after every step, also after one that was skipped.
 * Of a shard that has some, a step or a save is refused until they are set:
 * SONEW_PARTIAL_SUMS.
 *
 * While a step in stages is under way, this is possible from SONEW_NORMS on, and tells the sums
 * of that step.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_WRONG_LENGTH (capacity is less than the count),
 * SONEW_MISALIGNED, SONEW_OVERLAP (with the state), SONEW_IN_STAGES. Since 0.2.
 */
sonew_status sonew_partial_sums(const sonew_optimizer *optimizer,
                                size_t tensor,
                                void *sums,
                                size_t capacity,
                                size_t *count);

/**
 * Puts sums over all machines, which begin with those of sonew_partial_sums(), in their place:
 * count numbers, as many and of the type that it tells. Every machine must pass the same bits,
 * since each adds them to its own copy of the sums of all steps, which all must keep equal:
 * files of which this is not so do not load together. Where the numbers were 0 because nothing
 * was to be added up, nothing changes.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_WRONG_LENGTH, SONEW_MISALIGNED, SONEW_OVERLAP (with the
 * state). Since 0.2.
 */
sonew_status sonew_set_reduced_sums(sonew_optimizer *optimizer,
                                    size_t tensor,
                                    const void *sums,
                                    size_t count);

/******************************************************************************
 * Status
 *
 * Every function that can fail returns a status. The numbers are fixed: later
 * versions add numbers, but never change or reuse one.
 ******************************************************************************/

/**
 * Returns the name of a status, such as "SONEW_OUT_OF_RANGE", or "unknown
 * status" for any other number. Never NULL; the string is constant. May be
 * called at any time. Since 0.2.
 */
const char *sonew_status_name(int32_t status);

/**
 * Returns the message of this thread's last failed call, which says which
 * argument, which tensor and which value was wrong. It is in English, in UTF-8,
 * at most 1023 bytes long; long names and paths lose their middle. Never NULL; ""
 * if no call has failed. The thread's next failed call overwrites the text. Since
 * 0.2.
 */
const char *sonew_last_error(void);

/**
 * The outcome of a call. Every status but SONEW_OK means that nothing was
 * changed and no output was written.
 *
 * Besides the errors that a function lists, it may return SONEW_NULL_POINTER,
 * SONEW_BAD_HANDLE and SONEW_BUSY for its arguments, and SONEW_INTERNAL; and
 * SONEW_IN_STAGES if it steps, saves, loads, syncs or changes a setting while
 * a step in stages is under way.
 */
enum {
  /** Done. */
  SONEW_OK = 0,
  /**
   * A gradient has a NaN, an infinity, or a number whose square overflows;
   * the message names its tensor. The step was skipped. This is not a mistake
   * of the caller: with loss scaling, lower the scale and continue.
   */
  SONEW_NON_FINITE_GRADIENT = 1,
  /** A pointer is NULL that must not be. */
  SONEW_NULL_POINTER = 100,
  /** A handle was freed before, never created, or is of another kind. */
  SONEW_BAD_HANDLE = 101,
  /** Another thread is using the handle at this moment. */
  SONEW_BUSY = 102,
  /**
   * struct_size is not the size of any version of the struct: it was not
   * filled in by the library.
   */
  SONEW_STRUCT_SIZE = 103,
  /**
   * The caller's header is newer than the library, and a field that this
   * library does not know is not zero.
   */
  SONEW_UNKNOWN_FIELD = 104,
  /** A string is not UTF-8. */
  SONEW_INVALID_STRING = 105,
  /** A field has a number that its enumeration does not have. */
  SONEW_UNKNOWN_VALUE = 106,
  /** A number is outside its documented range. */
  SONEW_OUT_OF_RANGE = 107,
  /** A step in stages is under way: finish it first, or abort it. */
  SONEW_IN_STAGES = 108,
  /**
   * A step in stages cannot be aborted any more: the state has been updated
   * with its gradients.
   */
  SONEW_STATE_WRITTEN = 110,
  /** The list of tensors is empty. */
  SONEW_NO_TENSORS = 200,
  /** A tensor's name is empty or has a control character. */
  SONEW_TENSOR_NAME = 201,
  /** Two tensors have the same name. */
  SONEW_DUPLICATE_NAME = 202,
  /** A tensor has more than SONEW_MAX_DIMS dimensions. */
  SONEW_TOO_MANY_DIMENSIONS = 203,
  /** A tensor's size does not fit into the address space. */
  SONEW_SIZE_OVERFLOW = 205,
  /** A call passes another number of tensors than the handle has. */
  SONEW_TENSOR_COUNT = 206,
  /**
   * A buffer does not have the length of its tensor, or of all tensors together, or has no
   * room for a checkpoint.
   */
  SONEW_WRONG_LENGTH = 207,
  /** A call passes another number of state planes than a tensor has. */
  SONEW_PLANE_COUNT = 208,
  /** There is no tensor with this index. */
  SONEW_UNKNOWN_TENSOR = 209,
  /** The tensor has no state plane with this index. */
  SONEW_UNKNOWN_PLANE = 210,
  /** There is no struct, no field, or nothing for a load to override, with this name. */
  SONEW_UNKNOWN_NAME = 211,
  /**
   * A tensor asks for SONEW_F16 state, whose range is too small for squared
   * gradients.
   */
  SONEW_STATE_DTYPE = 212,
  /**
   * A tensor with SONEW_F64 parameters asks for master weights, which are
   * SONEW_F32.
   */
  SONEW_MASTER_DTYPE = 213,
  /**
   * A shard has rows that the whole tensor does not have, or is a scalar; or it has pooled
   * correlations and is cut through its chains, not lagged, or to be in a live file.
   */
  SONEW_SHARD = 215,
  /**
   * The options of a tensor differ from those of the optimizer in one that is the same
   * for all tensors.
   */
  SONEW_TENSOR_OPTION = 216,
  /**
   * The key of a text is empty or has a control character, the text has a NUL, or there
   * are more than 1000.
   */
  SONEW_TEXT = 217,
  /**
   * Numbers by block are asked for of a shard that is not cut between blocks:
   * sonew_block_rows().
   */
  SONEW_BLOCK_CUT = 218,
  /**
   * The pooled sums of a shard's last step have not been added up over all shards:
   * sonew_partial_sums().
   */
  SONEW_PARTIAL_SUMS = 219,
  /** A buffer is not aligned to its element type. */
  SONEW_MISALIGNED = 220,
  /**
   * A buffer that is written overlaps another buffer of the call, or the
   * state.
   */
  SONEW_OVERLAP = 221,
  /** Both parameters and a direction were passed for a tensor. */
  SONEW_AMBIGUOUS_TARGET = 222,
  /**
   * The operands, results or attributes of an XLA custom call are not those
   * that its handler expects. No function returns this status.
   */
  SONEW_CUSTOM_CALL = 230,
  /** There is not enough memory. */
  SONEW_OUT_OF_MEMORY = 300,
  /**
   * The system could not create a thread: that of a save in the background, or the
   * one with which sonew_pool_create() tries processors. A step that gets fewer
   * threads than it may use goes on with those.
   */
  SONEW_THREADS = 301,
  /**
   * The processor, or the library as it was built, lacks the instruction
   * set that was asked for.
   */
  SONEW_INSTRUCTION_SET = 302,
  /** The threads of a pool may not run on a processor. */
  SONEW_PROCESSOR = 303,
  /** A file operation failed; the message has the system's reason. */
  SONEW_IO = 400,
  /**
   * The file is not a checkpoint of this library, or is too damaged to be
   * recognized as one.
   */
  SONEW_NOT_A_CHECKPOINT = 401,
  /** The file is shorter or longer than its header says. */
  SONEW_FILE_LENGTH = 402,
  /** The file is from a newer version of the library. */
  SONEW_FORMAT_VERSION = 403,
  /** A checksum does not match; the message names the array. */
  SONEW_CHECKSUM = 404,
  /**
   * There are more tensors, or longer names, than the header of a file can
   * list.
   */
  SONEW_HEADER_LENGTH = 405,
  /** A tensor is in the file but not in the optimizer, or the other way round. */
  SONEW_TENSOR_MISSING = 410,
  /**
   * A tensor has other dimensions or chains, another update, or other options of its own, in
   * the file.
   */
  SONEW_TENSOR_DIFFERS = 411,
  /** An option has another value in the file. */
  SONEW_OPTION_DIFFERS = 412,
  /** The file lacks a state plane, or the parameters. */
  SONEW_PLANE_MISSING = 413,
  /** A rename has a name that no tensor has, or two renames conflict. */
  SONEW_RENAME = 414,
  /**
   * A state plane, or the parameters of a tensor, have another element type
   * in the file; or tensors in one buffer differ in it. In sonew.hpp also a buffer
   * whose elements have another type than the tensor declares.
   */
  SONEW_DTYPE_DIFFERS = 415,
  /** Rows of a tensor are in none of the files. */
  SONEW_ROWS_MISSING = 416,
  /** The files of a set are of different steps. */
  SONEW_STEPS_DIFFER = 417,
  /** The files of a set differ in a setting of a tensor, in an option, or in pooled sums. */
  SONEW_FILES_DIFFER = 418,
  /** Several files of a set have the same rows of a tensor, with different numbers. */
  SONEW_ROWS_DIFFER = 419,
  /**
   * A live file is in use by another process or optimizer, or another save
   * to the same path is under way.
   */
  SONEW_FILE_LOCKED = 420,
  /**
   * A forked child tries to use a live file of its parent, or to finish its
   * parent's save.
   */
  SONEW_FORKED = 421,
  /** The optimizer's state is not in a live file. */
  SONEW_NOT_LIVE = 422,
  /** The file is a checkpoint but not a live file. */
  SONEW_NOT_A_LIVE_FILE = 423,
  /**
   * The machine crashed or lost power while the live file was in use, or it is a
   * copy of a live file in use, and it is not as it was at its last sync: load
   * the last save instead.
   */
  SONEW_TORN = 424,
  /**
   * A live file was not synced after its last step, so that it has no
   * checksums to verify.
   */
  SONEW_UNSYNCED = 425,
  /** A load option cannot be combined with SONEW_MAP_SHARED. */
  SONEW_SHARED_OPTION = 426,
  /**
   * The older copy in a live file was asked for (sonew_load_options.older_copy), and is
   * not whole: a step has begun to write it, there was none, or the machine went down
   * since.
   */
  SONEW_NO_OLDER_COPY = 427,
  /**
   * Several files were to be mapped, or one with other rows of a tensor than the
   * optimizer has: read them instead.
   */
  SONEW_MAPPED_ROWS = 428,
  /**
   * A text was set for state in a live file, which has none, or state with texts was to
   * be moved into one.
   */
  SONEW_LIVE_TEXT = 429,
  /** A checkpoint in memory was to be mapped, or was passed together with a path. */
  SONEW_MEMORY = 430,
  /**
   * A bug in this library; please report the message. Only after this error
   * may something have changed: the handle that was in use is refused from
   * now on, and can only be freed.
   */
  SONEW_INTERNAL = 900,
};

/******************************************************************************
 * Version
 *
 * The macros SONEW_VERSION_MAJOR and so on, at the top of this header, are the
 * version of the header; these functions return the version of the library in
 * use. Before 1.0, two versions work together if major and minor agree; from
 * 1.0 on, if major agrees and the library is not older than the header.
 ******************************************************************************/

/**
 * Returns the version of the library, as in "0.2.0". Never NULL; the string is
 * constant. Since 0.2.
 */
const char *sonew_version(void);

/**
 * Tells the layout of this header's structs in the library in use: writes the
 * offset of a field in its struct to *offset and the field's size to *size,
 * both in bytes. structure is the name of the struct, as in "sonew_tensor", and
 * field that of the field; field may be NULL, which means the whole struct.
 *
 * For callers whose compiler does not read this header: they can detect that a
 * struct which they declare themselves differs, instead of crashing.
 *
 * Errors: SONEW_INVALID_STRING, SONEW_UNKNOWN_NAME. Since 0.2.
 */
sonew_status sonew_struct_field(const char *structure,
                                const char *field,
                                size_t *offset,
                                size_t *size);

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

#ifdef __cplusplus
}
#endif

#endif /* SONEW_H */
