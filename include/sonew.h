/******************************************************************************
 * sonew.h - SONew, the Sparsified Online Newton method, as a C library
 *
 * SONew (arXiv 2311.10085) is an optimizer for training neural networks. It
 * costs about as much time and memory as Adam, linear in the number of
 * parameters, and takes fewer steps on problems that Adam finds hard: its
 * preconditioner is not a diagonal but a tridiagonal or banded matrix. The
 * program computes gradients; this library keeps the second-order state and
 * updates the parameters in place.
 *
 * The whole of it, for a network of one layer:
 *
 *    sonew_options options;
 *    sonew_options_init(&options, sizeof options);    // the defaults
 *    options.band = 1;                                // tridiagonal
 *
 *    sonew_tensor tensors[] = {
 *        {.name = "fc1.weight", .ndim = 2, .dims = {1000, 784}},
 *        {.name = "fc1.bias", .ndim = 1, .dims = {1000}},
 *    };
 *    sonew_optimizer *optimizer = NULL;
 *    if (sonew_create(&options, tensors, 2, &optimizer) != SONEW_OK) {
 *        fprintf(stderr, "%s\n", sonew_last_error());
 *        exit(1);
 *    }
 *
 *    float *params[] = {weight, bias};
 *    const float *grads[] = {weight_grad, bias_grad};
 *    sonew_step_options step;
 *    sonew_step_options_init(&step, sizeof step);
 *    for (int i = 0; i < 1000; i++) {
 *        compute_gradients(params, weight_grad, bias_grad);
 *        step.lr = 1e-3;
 *        if (sonew_step(optimizer, &step, params, grads, 2) != SONEW_OK)
 *            fprintf(stderr, "%s\n", sonew_last_error());
 *    }
 *    sonew_save(optimizer, "step-1000.safetensors", params, 2);
 *    sonew_free(optimizer);
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
 *    u <- u |a| / |u|                                        grafting: the
 *                                          length of another method's a
 *    p <- p - lr (u + weight_decay p)
 *
 * X minimises tr(X H^) - log det X among the positive definite matrices of
 * band b: its inverse agrees with H^ on the band.
 *
 * What can be relied on:
 *
 * - A call that does not return SONEW_OK has changed nothing and written no
 *   output: not a parameter, not a state, not a file, not the step count.
 *   sonew_last_error() tells why. Nothing is clamped, guessed or copied
 *   silently.
 * - The same inputs give the same bits, for any number of threads, with every
 *   instruction set, whatever floating-point mode the caller has set.
 * - A pointer may be NULL only where its function says so; NULL, misaligned
 *   and overlapping buffers are refused. What the library cannot see is
 *   whether a buffer is as long as its tensor.
 * - Different handles may be used by different threads at once. One handle is
 *   for one thread at a time: a second one gets SONEW_BUSY.
 * - A handle is not an address. One that was freed is refused, for ever.
 * - Nothing is printed, no handlers are installed, and no threads are used
 *   but the optimizer's own, which end when it is freed.
 *
 * Conventions. Strings are UTF-8 and end with a NUL; those that are passed in
 * are copied. A struct that has an init function may grow in later versions;
 * its init function, with sizeof of the caller's struct, keeps old programs
 * working with new libraries and the other way round. Zero means false, 1
 * true, and nothing else is accepted. Fields called reserved must be 0. The
 * arithmetic is float32, or float64 for tensors with float64 parameters or
 * state: a number that does not fit into float32 is out of range.
 ******************************************************************************/

#ifndef SONEW_H
#define SONEW_H

/* Generated from src/capi by build.rs: change it there. */

#include <stddef.h>
#include <stdint.h>

/* The version of this header. */
#define SONEW_VERSION_MAJOR 0
#define SONEW_VERSION_MINOR 1
#define SONEW_VERSION_PATCH 0
#define SONEW_VERSION_NUMBER \
    (SONEW_VERSION_MAJOR * 1000000 + SONEW_VERSION_MINOR * 1000 + SONEW_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/******************************************************************************
 * Status
 *
 * Every function that can fail returns a status. The numbers are fixed: a
 * later version adds some, and changes or uses again none.
 ******************************************************************************/

/**
 * What came of a call. Anything but SONEW_OK means that nothing was changed
 * and no output was written.
 *
 * Besides the errors that a function lists, it may return SONEW_NULL_POINTER,
 * SONEW_BAD_HANDLE and SONEW_BUSY for its arguments, and SONEW_INTERNAL; and
 * SONEW_IN_STAGES if it steps, saves, loads, syncs or changes a setting while
 * a step in stages is under way.
 */
typedef enum {
  /** Done. */
  SONEW_OK = 0,
  /**
   * A gradient has a NaN, an infinity, or a number whose square overflows;
   * the message names its tensor. The step was skipped. Not a mistake of
   * the caller: with loss scaling, lower the scale and go on.
   */
  SONEW_NON_FINITE_GRADIENT = 1,
  /** A pointer that must not be NULL is. */
  SONEW_NULL_POINTER = 100,
  /** A handle was freed before, never created, or is of another kind. */
  SONEW_BAD_HANDLE = 101,
  /** Another thread is using the handle in this moment. */
  SONEW_BUSY = 102,
  /**
   * struct_size is no size that the struct ever had: it was not filled in
   * by its init function.
   */
  SONEW_STRUCT_SIZE = 103,
  /**
   * The caller's header is newer than the library, and a field that this
   * library does not know is not zero.
   */
  SONEW_UNKNOWN_FIELD = 104,
  /** A string is not UTF-8. */
  SONEW_INVALID_STRING = 105,
  /** A field that stands for one of several values has none of them. */
  SONEW_UNKNOWN_VALUE = 106,
  /** A number is outside its documented range. */
  SONEW_OUT_OF_RANGE = 107,
  /** A step in stages is under way: finish it first, or abort it. */
  SONEW_IN_STAGES = 108,
  /** No step in stages is under way. */
  SONEW_NO_STAGES = 109,
  /**
   * A step in stages cannot be aborted any more: the state has taken in its
   * gradients.
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
  /** A dimension is zero. */
  SONEW_ZERO_DIMENSION = 204,
  /** A tensor's size does not fit into the address space. */
  SONEW_SIZE_OVERFLOW = 205,
  /** A call has another number of tensors than the handle. */
  SONEW_TENSOR_COUNT = 206,
  /** A buffer has another length than its tensor. */
  SONEW_WRONG_LENGTH = 207,
  /** A tensor has another number of state planes. */
  SONEW_PLANE_COUNT = 208,
  /** There is no tensor with this index. */
  SONEW_UNKNOWN_TENSOR = 209,
  /** The tensor has no state plane with this index. */
  SONEW_UNKNOWN_PLANE = 210,
  /** There is no tensor, or no plane, with this name. */
  SONEW_UNKNOWN_NAME = 211,
  /** A tensor asks for SONEW_F16 state, which has not the range for it. */
  SONEW_STATE_DTYPE = 212,
  /**
   * A tensor with SONEW_F64 parameters asks for master weights, which are
   * SONEW_F32.
   */
  SONEW_MASTER_DTYPE = 213,
  /** A buffer has another element type than its tensor. */
  SONEW_WRONG_DTYPE = 214,
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
   * that its handler takes. Not returned by a function.
   */
  SONEW_CUSTOM_CALL = 230,
  /** There is not enough memory. */
  SONEW_OUT_OF_MEMORY = 300,
  /** The system does not give the threads that were asked for. */
  SONEW_THREADS = 301,
  /**
   * The processor, or the library as it was built, lacks the instruction
   * set that was asked for.
   */
  SONEW_INSTRUCTION_SET = 302,
  /** A file operation failed; the message has the system's reason. */
  SONEW_IO = 400,
  /**
   * The file is no checkpoint of this library, or is damaged so that it
   * makes no sense.
   */
  SONEW_NOT_A_CHECKPOINT = 401,
  /** The file is shorter or longer than its header says. */
  SONEW_FILE_LENGTH = 402,
  /** The file is from a newer version of the library. */
  SONEW_FORMAT_VERSION = 403,
  /** A checksum does not hold; the message names the array. */
  SONEW_CHECKSUM = 404,
  /** The tensors are more than the header of a file can list. */
  SONEW_HEADER_LENGTH = 405,
  /** A tensor is in the file or in the optimizer only. */
  SONEW_TENSOR_MISSING = 410,
  /** A tensor has other dimensions, chains or another update in the file. */
  SONEW_TENSOR_DIFFERS = 411,
  /** An option has another value in the file. */
  SONEW_OPTION_DIFFERS = 412,
  /** The file lacks a state plane, or the parameters. */
  SONEW_PLANE_MISSING = 413,
  /** Renames do not fit the tensors. */
  SONEW_RENAME = 414,
  /**
   * A state plane, or the parameters of a tensor, have another element type
   * in the file.
   */
  SONEW_DTYPE_DIFFERS = 415,
  /**
   * A live file is in use by another process or optimizer, or another save
   * to the same path is under way.
   */
  SONEW_FILE_LOCKED = 420,
  /**
   * A forked child tries to use a live file of its parent, or to finish its
   * save.
   */
  SONEW_FORKED = 421,
  /** The optimizer's state is not in a live file. */
  SONEW_NOT_LIVE = 422,
  /** The file is a checkpoint and no live file. */
  SONEW_NOT_A_LIVE_FILE = 423,
  /**
   * The machine went down while the live file was being written, and the
   * file is not as it was at its last sync: go back to the last save.
   */
  SONEW_TORN = 424,
  /**
   * A live file was not synced after its last step, so that it has no
   * checksums to verify it by.
   */
  SONEW_UNSYNCED = 425,
  /** A load option cannot go with SONEW_MAP_SHARED. */
  SONEW_SHARED_OPTION = 426,
  /**
   * A mistake in this library; please report the message. The one error
   * after which things may have changed: the handle that was in use is
   * refused from now on, and can only be freed.
   */
  SONEW_INTERNAL = 900,
} sonew_status;

/**
 * The name of a status, such as "SONEW_OUT_OF_RANGE"; "unknown status" for
 * a number that is none. Never NULL; the string is constant. Takes any
 * number, and may be called at any time. Since 0.1.
 */
const char *sonew_status_name(int32_t status);

/**
 * Why the last call of this thread that did not return SONEW_OK did not:
 * which argument, which tensor, which value. In English, UTF-8, at most 1023
 * bytes. Never NULL; "" if there was no such call. The text is overwritten
 * by the thread's next call that fails. Since 0.1.
 */
const char *sonew_last_error(void);

/******************************************************************************
 * Options
 *
 * What an optimizer is created with, and keeps over its life.
 ******************************************************************************/

/** The largest sonew_options.band. */
#define SONEW_MAX_BAND 16

/** How gradients enter the diagonal and the sub-diagonals H. */
typedef enum {
  /** H <- beta2 H + (1 - beta2) g g^T */
  SONEW_MOVING_AVERAGE = 0,
  /**
   * H <- H + w g g^T with w = sonew_step_options.statistics_weight: the
   * paper's online-convex form. H is then never bias-corrected.
   */
  SONEW_WEIGHTED_SUM = 1,
} sonew_statistics;

/** What is added to the diagonal before it is inverted. */
typedef enum {
  /** eps */
  SONEW_ABSOLUTE = 0,
  /**
   * max(eps l1, 1e-24), with l1 the largest H[j][j] + |H[j][j-1]| of the
   * bias-corrected H over the whole tensor; for the first coordinate of a
   * chain H[j][j] + |H[j+1][j]|. Damping that does not depend on the scale
   * of the loss.
   */
  SONEW_RELATIVE = 1,
} sonew_damping;

/**
 * The method a whose length the update takes, tensor by tensor:
 * u <- u |a| / |u|. A learning rate that is good for it is then good for
 * SONew.
 */
typedef enum {
  /** None: u keeps its own length. */
  SONEW_GRAFT_NONE = 0,
  /** a = g */
  SONEW_GRAFT_SGD = 1,
  /** a = m^ */
  SONEW_GRAFT_MOMENTUM = 2,
  /** a = m^ / (sqrt(v) + graft_eps), with v the diagonal without damping. */
  SONEW_GRAFT_ADAM = 3,
  /**
   * a = q / (sqrt(r) + graft_eps), with q = g / |g| and
   * r <- beta2 r + (1 - beta2) q^2. Keeps one more state plane, "rms".
   */
  SONEW_GRAFT_NORMALIZED_RMSPROP = 4,
} sonew_graft;

/**
 * How numbers are rounded to 16 bits. SONEW_F32 and SONEW_F64 always round to
 * nearest.
 *
 * Accuracy: with u = 2^-8 for SONEW_BF16 and 2^-11 for SONEW_F16, rounding to
 * nearest changes a number by at most u of its size, stochastic rounding by
 * less than 2 u, and on average by nothing. State is rounded once per step, so
 * that after t steps a plane is off by at most about min(t, 1 / (1 - beta)) u
 * of the largest number that it has held; a direction by that times the
 * condition of its preconditioner, about the inverse of the smallest Schur
 * complement as a part of its diagonal entry. Parameters without master
 * weights are rounded once per step, too. Gradients are taken as they are, and
 * arithmetic is float32 or float64.
 */
typedef enum {
  /**
   * To nearest, ties to even. An average stalls where its changes are less
   * than half a unit in the last place.
   */
  SONEW_NEAREST = 0,
  /**
   * Up or down, with probabilities that make the expected value exact.
   * Reproducible: the random bits are a function of seed, step, tensor,
   * plane and index.
   */
  SONEW_STOCHASTIC = 1,
} sonew_rounding;

/** An instruction set. */
typedef enum {
  /**
   * The one that the environment variable SONEW_INSTRUCTION_SET names
   * (portable, avx2, avx512 or neon); where it is not set, or auto, the
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
} sonew_isa;

/**
 * How an optimizer works. Fill it in with sonew_options_init(), then change
 * what is to be different.
 */
typedef struct {
  /** Set by sonew_options_init(). */
  size_t struct_size;
  /**
   * Number of sub-diagonals, 0 to SONEW_MAX_BAND: 0 is a diagonal, 1 a
   * tridiagonal matrix. State takes band + 2 numbers for each parameter.
   * Default 1.
   */
  int32_t band;
  /**
   * The largest number of threads that a step uses, the calling one
   * included, up to 1024. 0 is as many as the process may run on; 1 means
   * that no thread is ever created. Results do not depend on it. Default 0.
   */
  int32_t threads;
  /** Decay of the momentum, at least 0 and less than 1. Default 0.9. */
  double beta1;
  /**
   * Decay of the diagonal, the sub-diagonals and the plane "rms", at least
   * 0 and less than 1. Default 0.99.
   */
  double beta2;
  /** Damping, finite and not negative; see damping. Default 1e-6. */
  double eps;
  /**
   * Edge removal, at least 0 and less than 1: a coordinate whose Schur
   * complement, or one of whose pivots, is not above gamma times the
   * diagonal entry is preconditioned by its diagonal alone. At 0 rounding
   * can decide: where statistics are singular and damping is negligible, a
   * direction may overflow. Default 0.01.
   */
  double gamma;
  /**
   * Added to the square root in the lengths of Adam and normalized RMSProp,
   * and in the plain Adam update; finite and not negative. Default 1e-8.
   */
  double graft_eps;
  /**
   * Decoupled weight decay that every tensor starts with, finite and not
   * negative; sonew_set_weight_decay() changes it for one. Default 0.
   */
  double weight_decay;
  /** Seed of stochastic rounding. Default 0. */
  uint64_t seed;
  /** One of sonew_statistics. Default SONEW_MOVING_AVERAGE. */
  int32_t statistics;
  /** One of sonew_damping. Default SONEW_ABSOLUTE. */
  int32_t damping;
  /** One of sonew_graft. Default SONEW_GRAFT_ADAM. */
  int32_t graft;
  /**
   * 1: divide the momentum by 1 - beta1^t and a moving average of
   * statistics by 1 - beta2^t, t the step count. 0: do not. Default 1.
   */
  int32_t bias_correction;
  /**
   * 1: correct the diagonal in the length of Adam, too. 0: do not. Without
   * bias_correction it never is. Default 1.
   */
  int32_t graft_bias_correction;
  /**
   * One of sonew_rounding, for 16-bit state, and 16-bit parameters without
   * master weights. Default SONEW_NEAREST.
   */
  int32_t rounding;
  /**
   * One of sonew_isa: what steps use. Results do not depend on it. Default
   * SONEW_ISA_AUTO.
   */
  int32_t instruction_set;
  /** Must be 0. */
  int32_t reserved[1];
} sonew_options;

/**
 * Fills in the defaults. Pass sizeof *options for size: so the library knows
 * which fields the caller has, and the two may be of different versions.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.1.
 */
sonew_status sonew_options_init(sonew_options *options, size_t size);

/******************************************************************************
 * Tensors
 *
 * A tensor is a parameter buffer of the caller: contiguous, its last
 * dimension fastest. It is read as one or more chains of coordinates, and
 * neighbours in a chain share band entries.
 ******************************************************************************/

/** The largest number of dimensions of a tensor. */
#define SONEW_MAX_DIMS 8

/**
 * Which coordinates are neighbours. Chains should run along a unit's inputs;
 * along its outputs the method does much worse.
 */
typedef enum {
  /**
   * The whole tensor is one chain in the order of memory, last dimension
   * fastest: for weights stored [out, in].
   */
  SONEW_ROW_MAJOR = 0,
  /**
   * The whole tensor is one chain, first dimension fastest: for weights
   * stored [in, out].
   */
  SONEW_COLUMN_MAJOR = 1,
  /** One chain for each row, along the last dimension. */
  SONEW_ROWS = 2,
  /** One chain for each column, along the first dimension. */
  SONEW_COLUMNS = 3,
} sonew_chains;

/** Which update a tensor takes. */
typedef enum {
  /** The SONew direction, grafted as the options say. */
  SONEW_UPDATE_SONEW = 0,
  /**
   * Plain Adam, m^ / (sqrt(H^) + graft_eps): for biases and norms. Keeps
   * the planes "momentum" and "diagonal" only.
   */
  SONEW_UPDATE_ADAM = 1,
} sonew_update;

/** The type of a buffer's elements. */
typedef enum {
  /** What the field says is its default. */
  SONEW_DTYPE_DEFAULT = 0,
  /** IEEE 754 binary32: float. */
  SONEW_F32 = 1,
  /** IEEE 754 binary64: double. */
  SONEW_F64 = 2,
  /** bfloat16: the upper half of a binary32. */
  SONEW_BF16 = 3,
  /** IEEE 754 binary16. */
  SONEW_F16 = 4,
} sonew_dtype;

/**
 * One tensor. Set every byte to zero first, as an initialiser that names
 * fields does: zero is the default of whatever is not set.
 */
typedef struct {
  /**
   * UTF-8, not empty, without control characters, different from those of
   * the other tensors; copied. Checkpoints find tensors by it.
   */
  const char *name;
  /** Number of dimensions, 0 (a scalar) to SONEW_MAX_DIMS. */
  size_t ndim;
  /** The dimensions, slowest first; each at least 1, those beyond ndim 0. */
  size_t dims[SONEW_MAX_DIMS];
  /** One of sonew_chains. Default (0) SONEW_ROW_MAJOR. */
  int32_t chains;
  /** One of sonew_update. Default (0) SONEW_UPDATE_SONEW. */
  int32_t update;
  /**
   * One of sonew_dtype: the type of the parameters, and of a direction.
   * Default (0) SONEW_F32. Where it or state_dtype is SONEW_F64 the
   * arithmetic is float64, otherwise float32.
   */
  int32_t dtype;
  /** One of sonew_dtype: the type of the gradients. Default (0) dtype. */
  int32_t grad_dtype;
  /**
   * One of sonew_dtype: the type of the state planes, but for "master". Not
   * SONEW_F16, which has not the range for squared gradients. Default (0)
   * SONEW_F64 if dtype is, otherwise SONEW_F32.
   */
  int32_t state_dtype;
  /**
   * 1: keep float32 master weights in the state; see sonew_step_any(). Not
   * with a dtype of SONEW_F64. Default 0.
   */
  int32_t master;
  /** Must be 0. */
  int32_t reserved[2];
} sonew_tensor;

/******************************************************************************
 * Optimizer
 *
 * A handle that owns the state of a list of tensors. Parameters and gradients
 * stay the caller's.
 ******************************************************************************/

/** An optimizer. Created by sonew_create(), freed by sonew_free(). */
typedef struct sonew_optimizer sonew_optimizer;

/**
 * Creates an optimizer for count tensors, with state that is zero, and puts
 * it into *optimizer. options may be NULL, which means the defaults. Nothing
 * that is passed needs to stay.
 *
 * Memory: sonew_memory_bytes() afterwards. For each parameter band + 2 numbers
 * of state, of the tensor's state_dtype, one more with
 * SONEW_GRAFT_NORMALIZED_RMSPROP, and 4 bytes with master weights; a number
 * with any graft, for the direction; and a little for each thread. No thread
 * is created before a step needs one.
 *
 * Errors: SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD, SONEW_UNKNOWN_VALUE,
 * SONEW_OUT_OF_RANGE, SONEW_INVALID_STRING, SONEW_NO_TENSORS,
 * SONEW_TENSOR_NAME, SONEW_DUPLICATE_NAME, SONEW_TOO_MANY_DIMENSIONS,
 * SONEW_ZERO_DIMENSION, SONEW_SIZE_OVERFLOW, SONEW_STATE_DTYPE,
 * SONEW_MASTER_DTYPE, SONEW_INSTRUCTION_SET, SONEW_OUT_OF_MEMORY. Since 0.1.
 */
sonew_status sonew_create(const sonew_options *options,
                          const sonew_tensor *tensors,
                          size_t count,
                          sonew_optimizer **optimizer);

/**
 * Frees an optimizer, its state and its threads. NULL is allowed and does
 * nothing. Views of the state end. A live file is brought to disk, as by
 * sonew_sync(), and unlocked; to know whether that worked, call sonew_sync()
 * before. A handle that was freed before is refused
 * with SONEW_BAD_HANDLE, and one in use by another thread with SONEW_BUSY:
 * that one is not freed. Since 0.1.
 */
sonew_status sonew_free(sonew_optimizer *optimizer);

/******************************************************************************
 * Step
 *
 * What belongs to one step travels with it.
 ******************************************************************************/

/**
 * What a step does about a gradient with a NaN, an infinity, or a number
 * whose square overflows (after grad_scale).
 */
typedef enum {
  /**
   * Look at every gradient first, and if one is not finite change nothing
   * and return SONEW_NON_FINITE_GRADIENT.
   */
  SONEW_SKIP = 0,
  /** Do not look, unless clip_norm does. A tensor with such a gradient may be spoilt for ever. */
  SONEW_UNCHECKED = 1,
} sonew_non_finite;

/**
 * How one step is taken. Fill it in once with sonew_step_options_init(), and
 * change fields between steps as needed.
 */
typedef struct {
  /** Set by sonew_step_options_init(). */
  size_t struct_size;
  /** Learning rate, finite and not negative. Default 0.001. */
  double lr;
  /**
   * Every gradient is multiplied by this first (1 / loss scale, 1 / number
   * of micro-batches); finite and positive. Default 1.
   */
  double grad_scale;
  /**
   * The weight of this step's gradients with SONEW_WEIGHTED_SUM, finite and
   * not negative. Must be 1 with SONEW_MOVING_AVERAGE. Default 1.
   */
  double statistics_weight;
  /**
   * Clipping: where the length of all gradients together, sqrt(sum |g|^2)
   * over all tensors and after grad_scale, exceeds this, all gradients are
   * multiplied by clip_norm / length. Finite and positive, or 0: no
   * clipping. Clipping looks at every gradient, and refuses those that are
   * not finite whatever non_finite says. Default 0.
   */
  double clip_norm;
  /** One of sonew_non_finite. Default SONEW_SKIP. */
  int32_t non_finite;
  /** Must be 0. */
  int32_t reserved[1];
} sonew_step_options;

/**
 * Fills in the defaults. Pass sizeof *step for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.1.
 */
sonew_status sonew_step_options_init(sonew_step_options *step, size_t size);

/**
 * Takes one step: params[i] and the state of tensor i are updated from
 * grads[i], and the step count grows by one. params and grads have count
 * entries each, which is the number of tensors; each points to as many floats
 * as its tensor has, in the tensor's order. step may be NULL, which means the
 * defaults.
 *
 * grads[i] may be NULL: tensor i takes no part, and its parameters and state
 * stay as they are. params[i] may not. Two gradients may be the same buffer;
 * parameters may overlap nothing else of the call, nor the state. A parameter
 * that is used in two places of a model is one tensor, passed once with the
 * sum of its gradients. All tensors must be float: dtype and grad_dtype
 * SONEW_F32. For others there is sonew_step_any().
 *
 * Errors: SONEW_NON_FINITE_GRADIENT, SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD,
 * SONEW_UNKNOWN_VALUE, SONEW_OUT_OF_RANGE, SONEW_TENSOR_COUNT,
 * SONEW_WRONG_DTYPE, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_OVERLAP, SONEW_OUT_OF_MEMORY,
 * SONEW_THREADS. On a live file
 * SONEW_FORKED and, in the first step after a sync, SONEW_IO. Since 0.1.
 */
sonew_status sonew_step(sonew_optimizer *optimizer,
                        const sonew_step_options *step,
                        float *const *params,
                        const float *const *grads,
                        size_t count);

/******************************************************************************
 * Save and load
 *
 * A checkpoint is a safetensors file: state planes by name
 * ("fc1.weight/momentum"), parameters if wanted ("fc1.weight/parameter"),
 * options and step count in the metadata, and checksums of all of these.
 * Training that goes on from a checkpoint gives the same bits as training
 * that never stopped.
 ******************************************************************************/

/** How sonew_load() opens a file, and where the state is from then on. */
typedef enum {
  /** The file is read into memory, and every checksum is verified. */
  SONEW_READ = 0,
  /**
   * The file is mapped copy-on-write, in constant time however large it is:
   * a page is read when it is first needed and copied when it is first
   * written, and the file is never changed. Its header and sizes are checked,
   * its data are not; parameters that are loaded are read, and verified.
   * Nobody may write to the file, or make it shorter, as long as it is
   * mapped; it may be replaced, as by sonew_save(), and removed.
   */
  SONEW_MAP_PRIVATE = 1,
  /**
   * The state lives in the file, which sonew_make_live() made. It is locked
   * until the optimizer leaves it. Options and tensors must be the
   * optimizer's.
   */
  SONEW_MAP_SHARED = 2,
} sonew_load_mode;

/** A tensor that has another name in the file. */
typedef struct {
  /** Its name in the file. UTF-8. */
  const char *from;
  /** Its name in the optimizer. UTF-8. */
  const char *to;
} sonew_rename;

/**
 * What a load may overlook, and how. Fill it in with sonew_load_options_init();
 * the defaults overlook nothing.
 */
typedef struct {
  /** Set by sonew_load_options_init(). */
  size_t struct_size;
  /**
   * renames has rename_count entries, or is NULL with 0. All renames happen
   * at once, so that two tensors can swap their names. Default NULL.
   */
  const sonew_rename *renames;
  /** See renames. Default 0. */
  size_t rename_count;
  /**
   * 1: keep the optimizer's options, and its learning-rate scale and weight
   * decay of every tensor, where the file has others. Its band may then be
   * smaller than the file's, and its tensors may take another update, as
   * long as the file has every plane they need. Master weights may be on
   * one side alone: those that the file lacks are taken from the parameters
   * by the next step. Default 0.
   */
  int32_t override_options;
  /**
   * 1: load the tensors that both sides have, at least one, and leave the
   * others of the optimizer as they are. Default 0.
   */
  int32_t common_tensors_only;
  /**
   * One of sonew_load_mode. None of the above goes with SONEW_MAP_SHARED.
   * Default SONEW_READ.
   */
  int32_t mode;
  /** 0. */
  int32_t reserved[1];
} sonew_load_options;

/**
 * Saves state, options, step count, and each tensor's learning-rate scale
 * and weight decay to a file. With params (one buffer for each tensor, as in
 * sonew_step(); only read) the parameters, too; to save the state alone, pass
 * NULL and a count of 0. Parameters must be float; for others there is
 * sonew_save_any().
 *
 * The file is written beside path, named like it with ".sonew-tmp" added,
 * brought to disk, and then put in the place of path: when a save fails or
 * the process dies, what was there before is still there. (Unless all that
 * failed was to bring the new name to disk: then the new file is there.) What
 * a killed process leaves under that name the next save or load of path
 * removes. A second save to the same path at the same time is refused. path
 * may be the file that the state is mapped from privately.
 *
 * Where path is the live file that the state is in, this is sonew_sync(). Such
 * a file has no parameters but those that master weights hold: if params are
 * given, every tensor must have master weights.
 *
 * Errors: SONEW_TENSOR_COUNT, SONEW_WRONG_DTYPE, SONEW_MISALIGNED,
 * SONEW_SIZE_OVERFLOW, SONEW_HEADER_LENGTH, SONEW_FILE_LOCKED, SONEW_FORKED,
 * SONEW_PLANE_MISSING, SONEW_IO, SONEW_OUT_OF_MEMORY. Since 0.1.
 */
sonew_status sonew_save(const sonew_optimizer *optimizer,
                        const char *path,
                        float *const *params,
                        size_t count);

/**
 * Fills in the defaults. Pass sizeof *options for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.1.
 */
sonew_status sonew_load_options_init(sonew_load_options *options, size_t size);

/**
 * Loads what sonew_save() wrote into an optimizer that was created with the
 * same options (threads aside) and the same tensors, in any order. options
 * may be NULL; with it, differences can be allowed. With params (one buffer
 * for each tensor, as in sonew_step(); written) the parameters are loaded,
 * too, and the file must have them; to load the state alone, pass NULL and a
 * count of 0. Parameters must be float; for others there is sonew_load_any().
 *
 * Nothing is converted: state planes, and parameters that are loaded, must
 * have the types in the file that they have in the optimizer. Only where the
 * file has no parameters but master weights of a tensor, its parameters are
 * these, rounded to nearest, as after every step.
 *
 * options.mode says how the file is opened and where the state is from then
 * on. In any mode, everything that is read is read before anything is changed;
 * with SONEW_READ that takes memory for the state a second time. Views of the
 * state end. A live file that the state was in before is closed, as by
 * sonew_free().
 *
 * Errors: SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD, SONEW_UNKNOWN_VALUE,
 * SONEW_INVALID_STRING, SONEW_TENSOR_COUNT, SONEW_WRONG_DTYPE,
 * SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_OVERLAP, SONEW_IO, SONEW_NOT_A_CHECKPOINT,
 * SONEW_FILE_LENGTH, SONEW_FORMAT_VERSION, SONEW_CHECKSUM,
 * SONEW_TENSOR_MISSING, SONEW_TENSOR_DIFFERS, SONEW_DTYPE_DIFFERS,
 * SONEW_OPTION_DIFFERS, SONEW_PLANE_MISSING, SONEW_RENAME,
 * SONEW_FILE_LOCKED, SONEW_TORN, SONEW_NOT_A_LIVE_FILE, SONEW_SHARED_OPTION,
 * SONEW_OUT_OF_MEMORY. Since 0.1.
 */
sonew_status sonew_load(sonew_optimizer *optimizer,
                        const char *path,
                        const sonew_load_options *options,
                        float *const *params,
                        size_t count);

/******************************************************************************
 * Live files, and saving in the background
 *
 * A live file holds the state itself: the optimizer works straight on it, and
 * it may be larger than memory. It holds the state twice; each step reads one
 * copy and writes the other, and one store at its end makes that the current
 * one. Views of the state must be asked for again after each step.
 *
 * A process that dies in any moment, SIGKILL included, leaves a file that
 * opens at a completed step, the last one or the one before. With master
 * weights in every tensor that is a whole checkpoint.
 *
 * A machine that goes down is another matter. What survives a power failure:
 *
 * - of a saved file, everything, as soon as sonew_save() or
 *   sonew_save_finish() has returned; before that, the file that it replaces.
 *   This is the same whether the state is in memory, mapped privately or in a
 *   live file: the last save always survives;
 * - of a live file, what sonew_sync() or sonew_free() brought to disk, as long
 *   as at most one step was taken after it. Later, the file may be lost: it
 *   then opens with SONEW_TORN, never with state that no step left. To be
 *   safe, save to another path from time to time;
 * - of state that is mapped privately or in memory, nothing that was not saved.
 ******************************************************************************/

/** A save under way. Begun by sonew_save_begin(), ended by sonew_save_finish(). */
typedef struct sonew_saving sonew_saving;

/**
 * Moves the optimizer's state into a new live file, and works on it from then
 * on, until it is freed or loads another file. To go on with that file later,
 * create an optimizer with the same options and tensors, and load the file
 * with SONEW_MAP_SHARED.
 *
 * The file takes the place of what stands under path, as a saved one does.
 * All its space, twice that of the state, is allocated now, so that a full
 * disk is a status. (Where a file system allocates at every write, as btrfs
 * does for files with snapshots, it still may run out later, and the process
 * gets a SIGBUS: live files belong on ext4, xfs or tmpfs.) It is locked as
 * long as the optimizer works on it: another process, and another optimizer,
 * gets SONEW_FILE_LOCKED. A forked child must not use it: all but
 * sonew_free() and looking is refused there. It shares the lock until it
 * ends or calls sonew_free().
 *
 * Learning-rate scales and weight decay are in the file as soon as they are
 * set. Where path is the live file that the state is in, this is sonew_sync().
 * Views of the state end.
 *
 * Errors: SONEW_FILE_LOCKED, SONEW_FORKED, SONEW_OUT_OF_RANGE (a step count of
 * 2^47 or more), SONEW_HEADER_LENGTH, SONEW_IO, SONEW_OUT_OF_MEMORY. Since 0.1.
 */
sonew_status sonew_make_live(sonew_optimizer *optimizer, const char *path);

/**
 * Brings a live file's last step to disk, with checksums of its state, and
 * returns when that is done. sonew_free() does the same.
 *
 * Errors: SONEW_NOT_LIVE; SONEW_FORKED; SONEW_IO: the state is what it was,
 * but may not be on the disk. Since 0.1.
 */
sonew_status sonew_sync(const sonew_optimizer *optimizer);

/**
 * Begins a save in the background: takes a copy of what sonew_save_any() would
 * save, and returns while a thread of its own writes it. The optimizer may
 * step, change and be freed in the meantime, the parameters may change. Puts a
 * handle into *saving, for sonew_save_finish().
 *
 * The copy takes as much memory again as the state and the parameters, until
 * it is written. The thread is created also where options.threads is 1.
 *
 * params and count are as in sonew_save_any(): one buffer for each tensor, of
 * its type; or NULL and 0, for the state alone.
 *
 * Errors: SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW,
 * SONEW_OUT_OF_MEMORY, SONEW_THREADS, and for a live file those of
 * sonew_save(). Since 0.1.
 */
sonew_status sonew_save_begin(const sonew_optimizer *optimizer,
                              const char *path,
                              void *const *params,
                              size_t count,
                              sonew_saving **saving);

/**
 * Waits until a save has ended, and its thread with it, and returns what came
 * of it. The handle ends whatever that is, but for SONEW_BUSY. Every save must
 * be finished: it holds memory until then. NULL is allowed and does nothing.
 *
 * Errors: those of sonew_save(); SONEW_FORKED in a child of the process that
 * began it. Since 0.1.
 */
sonew_status sonew_save_finish(sonew_saving *saving);

/**
 * Checks a file from end to end: its header, its sizes, every checksum.
 * Changes nothing.
 *
 * Errors: SONEW_NOT_A_CHECKPOINT, SONEW_FILE_LENGTH, SONEW_FORMAT_VERSION,
 * SONEW_CHECKSUM, SONEW_IO; for a live file SONEW_UNSYNCED where its process
 * died before it was synced: it can be loaded, but has no checksums of its
 * last step; SONEW_TORN, SONEW_FILE_LOCKED. Since 0.1.
 */
sonew_status sonew_verify(const char *path);

/******************************************************************************
 * Settings of one tensor
 *
 * They can be changed at any time between calls. tensor is an index into the
 * list that the optimizer was created with; sonew_find_tensor() finds it.
 ******************************************************************************/

/**
 * The index of the tensor of this name, in *tensor.
 *
 * Errors: SONEW_INVALID_STRING, SONEW_UNKNOWN_NAME. Since 0.1.
 */
sonew_status sonew_find_tensor(const sonew_optimizer *optimizer,
                               const char *name,
                               size_t *tensor);

/**
 * Changes what the learning rate of a tensor is multiplied with; finite and
 * not negative, 1 at first.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_OUT_OF_RANGE; in a live file SONEW_FORKED
 * and SONEW_IO. Since 0.1.
 */
sonew_status sonew_set_lr_scale(sonew_optimizer *optimizer,
                                size_t tensor,
                                double scale);

/**
 * What the learning rate of a tensor is multiplied with, in *scale.
 *
 * Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
 */
sonew_status sonew_lr_scale(const sonew_optimizer *optimizer,
                            size_t tensor,
                            double *scale);

/**
 * Changes the decoupled weight decay of a tensor; finite and not negative,
 * that of the options at first.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_OUT_OF_RANGE; in a live file SONEW_FORKED
 * and SONEW_IO. Since 0.1.
 */
sonew_status sonew_set_weight_decay(sonew_optimizer *optimizer,
                                    size_t tensor,
                                    double decay);

/**
 * The decoupled weight decay of a tensor, in *decay.
 *
 * Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
 */
sonew_status sonew_weight_decay(const sonew_optimizer *optimizer,
                                size_t tensor,
                                double *decay);

/******************************************************************************
 * About an optimizer
 ******************************************************************************/

/**
 * Steps taken so far, in *count: those that were neither refused nor
 * skipped. Loading sets it to the file's. Since 0.1.
 */
sonew_status sonew_step_count(const sonew_optimizer *optimizer,
                              uint64_t *count);

/**
 * The length of all gradients together in the last step, sqrt(sum |g|^2) over
 * all tensors, in *norm: with grad_scale, before clipping. NaN before the first
 * step, and after one that did not need it: with SONEW_UNCHECKED and no
 * clip_norm, it may not have looked at all gradients. Since 0.1.
 */
sonew_status sonew_gradient_norm(const sonew_optimizer *optimizer,
                                 double *norm);

/** The number of tensors, in *count. Since 0.1. */
sonew_status sonew_tensor_count(const sonew_optimizer *optimizer,
                                size_t *count);

/** Bytes of state, in *bytes. Since 0.1. */
sonew_status sonew_state_bytes(const sonew_optimizer *optimizer, size_t *bytes);

/**
 * Bytes that the optimizer holds in all, in *bytes: the state, directions
 * where a graft needs them, and scratch for each thread; names and the like
 * are not counted, nor is state that is mapped from a file. A step allocates nothing that grows with the parameters.
 * Since 0.1.
 */
sonew_status sonew_memory_bytes(const sonew_optimizer *optimizer,
                                size_t *bytes);

/**
 * The largest number of threads that a step uses, the calling one included,
 * in *threads. Since 0.1.
 */
sonew_status sonew_threads(const sonew_optimizer *optimizer, size_t *threads);

/**
 * The instruction set in use, in *name: "avx512", "avx2", "neon" or
 * "portable". Results do not depend on it. The string lives as long as the
 * optimizer. Since 0.1.
 */
sonew_status sonew_instruction_set(const sonew_optimizer *optimizer,
                                   const char **name);

/******************************************************************************
 * Views of the state
 *
 * The state of a tensor is a list of planes: "momentum", "diagonal",
 * "band.1", "band.2" and so on, as many as options.band says, "rms" with
 * SONEW_GRAFT_NORMALIZED_RMSPROP, and "master" with master weights; a tensor
 * that takes the Adam update has of these the first two and the last. "master"
 * is SONEW_F32, the others have the tensor's state_dtype. A plane has one number for each parameter, in the tensor's own
 * order: that of coordinate j is where coordinate j is. In "band.k" that is
 * H[j+k][j], j+k counted along the chain; the last k coordinates of a chain
 * have 0.
 ******************************************************************************/

/**
 * A state plane where it lies, not copied. Everything that it points to is to
 * be read only, by calls of the same thread or between calls; data is as
 * after the last step, and without bias correction. It lives until the next
 * call that steps, loads into or frees the optimizer: ask again after each.
 */
typedef struct {
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
  /** The tensor's dimensions, slowest first; 0 beyond ndim. */
  size_t dims[SONEW_MAX_DIMS];
  /** One of sonew_dtype: the type of data's elements. */
  int32_t dtype;
  /** 0. */
  int32_t reserved;
} sonew_view;

/**
 * The number of state planes of a tensor, in *count.
 *
 * Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
 */
sonew_status sonew_plane_count(const sonew_optimizer *optimizer,
                               size_t tensor,
                               size_t *count);

/**
 * The index of a tensor's state plane of this name, in *plane.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_INVALID_STRING, SONEW_UNKNOWN_NAME. Since 0.1.
 */
sonew_status sonew_find_plane(const sonew_optimizer *optimizer,
                              size_t tensor,
                              const char *name,
                              size_t *plane);

/**
 * A view of a tensor's state plane, in *view. Pass sizeof *view for size.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_UNKNOWN_PLANE, SONEW_STRUCT_SIZE. Since 0.1.
 */
sonew_status sonew_plane_view(const sonew_optimizer *optimizer,
                              size_t tensor,
                              size_t plane,
                              sonew_view *view,
                              size_t size);

/**
 * Puts another state in the place of the optimizer's own: the steps that it
 * has seen, and all state planes, copied; count of them, those of the first
 * tensor first, each tensor's in the order of their indices. For programs that
 * kept the state in arrays of their own. "master" counts as taken from the
 * parameters. Views of the state end; a live file that the state was in is
 * closed, as by sonew_free().
 *
 * Errors: SONEW_PLANE_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW,
 * SONEW_OVERLAP, SONEW_OUT_OF_MEMORY. Since 0.1.
 */
sonew_status sonew_set_state(sonew_optimizer *optimizer,
                             uint64_t step_count,
                             const void *const *planes,
                             size_t count);

/******************************************************************************
 * Other element types
 *
 * sonew_step(), sonew_save() and sonew_load() take floats. These take what
 * sonew_tensor says of each tensor, which may be something else for each; the
 * pointers are to SONEW_F64 (double), SONEW_F32 (float), SONEW_BF16 or
 * SONEW_F16 (16-bit patterns such as uint16_t, or a type of the compiler's).
 * A buffer is aligned to the size of its elements.
 *
 * Master weights. A tensor with master set keeps float32 parameters in its
 * state: 16-bit parameters would lose updates that are smaller than their
 * rounding, and with float32 ones the saved state is a whole checkpoint. They
 * begin as a copy of the parameters that the first step gets, also where a
 * tensor has no gradient in it. From then on they are the truth: a step
 * updates them and writes them, rounded to nearest, to the parameters.
 ******************************************************************************/

/**
 * As sonew_step(), for tensors of any type: params[i] points to elements of
 * the dtype of tensor i, grads[i] to such of its grad_dtype.
 *
 * Errors: those of sonew_step(), but SONEW_WRONG_DTYPE. Since 0.1.
 */
sonew_status sonew_step_any(sonew_optimizer *optimizer,
                            const sonew_step_options *options,
                            void *const *params,
                            const void *const *grads,
                            size_t count);

/**
 * As sonew_save(), for tensors of any type: params[i] points to elements of
 * the dtype of tensor i.
 *
 * Errors: those of sonew_save(), but SONEW_WRONG_DTYPE. Since 0.1.
 */
sonew_status sonew_save_any(const sonew_optimizer *optimizer,
                            const char *path,
                            void *const *params,
                            size_t count);

/**
 * As sonew_load(), for tensors of any type: params[i] points to elements of
 * the dtype of tensor i.
 *
 * Errors: those of sonew_load(), but SONEW_WRONG_DTYPE. Since 0.1.
 */
sonew_status sonew_load_any(sonew_optimizer *optimizer,
                            const char *path,
                            const sonew_load_options *options,
                            void *const *params,
                            size_t count);

/**
 * Forgets the master weights of all tensors that keep them: the next step
 * takes them anew from the parameters. For a caller who has changed
 * parameters between steps; without it the change is lost.
 *
 * Errors: in a live file, SONEW_FORKED and SONEW_IO. Since 0.1.
 */
sonew_status sonew_reset_master(sonew_optimizer *optimizer);

/******************************************************************************
 * Stateless step
 *
 * For programs that keep parameters and state in arrays of their own. A plan
 * holds what does not change between steps; parameters, gradient and all
 * state planes are passed to each step. The optimizer above is a plan with
 * its state, and both give the same bits.
 ******************************************************************************/

/** A plan. Created by sonew_plan_create(), freed by sonew_plan_free(). */
typedef struct sonew_plan sonew_plan;

/**
 * The buffers of one tensor for one step. Fill it in with
 * sonew_buffers_init(). Every buffer has len elements, in the tensor's order,
 * of the types that sonew_tensor says.
 */
typedef struct {
  /** Set by sonew_buffers_init(). The same for all entries of a list. */
  size_t struct_size;
  /**
   * Parameters, updated in place: p <- p - lr (u + weight_decay p). NULL if
   * direction is given.
   */
  void *params;
  /**
   * Where the grafted direction u is to be written, in the type of params,
   * or NULL if params is given. Learning rate and weight decay are then the
   * caller's to apply, and "master" stays as it is.
   */
  void *direction;
  /**
   * The gradient. NULL: the tensor takes no part in the step, and nothing
   * of it is written.
   */
  const void *grad;
  /**
   * Pointers to the state planes, in the order of sonew_plan_plane_name().
   * All zero before the first step, but for "master": that is then a copy
   * of the parameters, which the caller makes.
   */
  void *const *planes;
  /** How many there are: sonew_plan_plane_count(). */
  size_t plane_count;
  /** Number of elements of the tensor, to be checked. */
  size_t len;
  /**
   * The learning rate is multiplied with it; finite and not negative.
   * Default 1.
   */
  double lr_scale;
  /**
   * Decoupled weight decay, finite and not negative. Default 0; that of the
   * options is the handle's and is not used here.
   */
  double weight_decay;
} sonew_buffers;

/**
 * Creates a plan for steps over count tensors, in *plan. Arguments and
 * statuses are those of sonew_create(). Since 0.1.
 */
sonew_status sonew_plan_create(const sonew_options *options,
                               const sonew_tensor *tensors,
                               size_t count,
                               sonew_plan **plan);

/**
 * Frees a plan and its threads, as sonew_free() does an optimizer. NULL is
 * allowed and does nothing. Since 0.1.
 */
sonew_status sonew_plan_free(sonew_plan *plan);

/**
 * The number of state planes that a tensor needs, in *count.
 *
 * Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
 */
sonew_status sonew_plan_plane_count(const sonew_plan *plan,
                                    size_t tensor,
                                    size_t *count);

/**
 * The name of a state plane that a tensor needs, in *name. The string lives
 * as long as the plan.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_UNKNOWN_PLANE. Since 0.1.
 */
sonew_status sonew_plan_plane_name(const sonew_plan *plan,
                                   size_t tensor,
                                   size_t plane,
                                   const char **name);

/**
 * The type of a state plane that a tensor needs, one of sonew_dtype, in *dtype.
 *
 * Errors: SONEW_UNKNOWN_TENSOR, SONEW_UNKNOWN_PLANE. Since 0.1.
 */
sonew_status sonew_plan_plane_dtype(const sonew_plan *plan,
                                    size_t tensor,
                                    size_t plane,
                                    int32_t *dtype);

/**
 * Fills in the defaults of one entry: no buffer at all, and factors that
 * change nothing. Pass sizeof *buffers for size.
 *
 * Errors: SONEW_STRUCT_SIZE. Since 0.1.
 */
sonew_status sonew_buffers_init(sonew_buffers *buffers, size_t size);

/**
 * Takes one step. buffers has one entry for each tensor, count in all. step
 * may be NULL, which means the defaults. step_number is 1 for the first step,
 * and decides the bias correction; the caller counts.
 *
 * What is written (params, direction, planes) may overlap nothing else of the
 * call. Gradients may overlap each other.
 *
 * Errors: those of sonew_step(), SONEW_WRONG_LENGTH, SONEW_PLANE_COUNT,
 * SONEW_STRUCT_SIZE, SONEW_AMBIGUOUS_TARGET. Since 0.1.
 */
sonew_status sonew_plan_step(sonew_plan *plan,
                             const sonew_step_options *step,
                             uint64_t step_number,
                             const sonew_buffers *buffers,
                             size_t count);

/******************************************************************************
 * Step in stages
 *
 * For programs that train one model on several machines (or in several
 * processes), each with a part of every tensor. Most of a step looks at one
 * place of a tensor only, but clipping, relative damping and grafting take
 * numbers of whole tensors, in up to three stages. A step in stages stops at
 * each: the program reduces the numbers of the parts, and goes on. With MPI:
 *
 *    double numbers[2 * COUNT];                     // two for each tensor
 *    int32_t stage;
 *    status = sonew_stages_begin(optimizer, &step, params, grads, COUNT);
 *    while (status == SONEW_OK) {
 *        status = sonew_stages_next(optimizer, numbers, COUNT, &stage);
 *        if (status != SONEW_OK || stage == SONEW_DONE)
 *            break;
 *        MPI_Allreduce(MPI_IN_PLACE, numbers, 2 * COUNT, MPI_DOUBLE,
 *                      stage == SONEW_LARGEST_L1 ? MPI_MAX : MPI_SUM, MPI_COMM_WORLD);
 *    }
 *
 * Which stages there are depends on options and tensors alone, so that all machines
 * stop at the same ones; a step that needs none is done at the first
 * sonew_stages_next(). Numbers that are given back as they came make the step
 * that sonew_step() takes, to the bit. Reduced ones make the step of the whole,
 * to the rounding of their sums, where tensors are cut between chains: between
 * rows with SONEW_ROWS, between columns with SONEW_COLUMNS.
 *
 * While a step in stages is under way, functions that ask something answer as
 * before it. Those that step, save, load, sync or change a setting are refused
 * with SONEW_IN_STAGES. The buffers must stay where they are, and unchanged,
 * until the step is done or aborted. Freeing the handle ends it, too.
 ******************************************************************************/

/**
 * Where a step in stages stands: what its numbers are, two for each tensor. A
 * tensor that takes no part has zeros.
 */
typedef enum {
  /** The step is done; there are no numbers. */
  SONEW_DONE = 0,
  /**
   * The sum of the squares of the gradient (after grad_scale), NaN where
   * an element is not finite; and 0. To be added up. Nothing has been written
   * yet. With SONEW_SKIP, with clip_norm, and with
   * SONEW_GRAFT_NORMALIZED_RMSPROP.
   */
  SONEW_GRADIENT_SQUARES = 1,
  /**
   * The l1 of SONEW_RELATIVE: the largest sum of sizes in a row of the
   * statistics; and 0. The largest is to be taken. The state has taken in
   * the gradients.
   */
  SONEW_LARGEST_L1 = 2,
  /**
   * The sum of squares of the direction, and that of the vector whose length
   * it takes. To be added up. The state has taken in the gradients. With
   * every graft but SONEW_GRAFT_NONE.
   */
  SONEW_LENGTHS = 3,
} sonew_stage;

/**
 * Begins a step in stages. Arguments are those of sonew_step_any(); the
 * buffers are used until the step is done. Nothing has been written when this
 * returns, and no gradient been read.
 *
 * Errors: those of sonew_step_any(), but SONEW_NON_FINITE_GRADIENT. Since 0.1.
 */
sonew_status sonew_stages_begin(sonew_optimizer *optimizer,
                                const sonew_step_options *step,
                                void *const *params,
                                const void *const *grads,
                                size_t count);

/**
 * Takes the step to its next stage, whose number goes to *stage, one of
 * sonew_stage, and whose numbers go to numbers: two for each of the count
 * tensors, 2 * count in all. They are given back, reduced, in the same place
 * with the next call; the first call does not look at what is there. With
 * SONEW_DONE the step is done: parameters and state are updated, the step count
 * has grown by one, and numbers are left as they are.
 *
 * Errors: SONEW_NO_STAGES, SONEW_TENSOR_COUNT, SONEW_OUT_OF_RANGE (a number is
 * negative), SONEW_OUT_OF_MEMORY, SONEW_THREADS, SONEW_FORKED: the step stands
 * where it stood, and the call can be repeated. SONEW_NON_FINITE_GRADIENT: a
 * sum of squares is NaN, here or on another machine, and the step is over as
 * if it had not begun. Since 0.1.
 */
sonew_status sonew_stages_next(sonew_optimizer *optimizer,
                               double *numbers,
                               size_t count,
                               int32_t *stage);

/**
 * Gives up the step that is under way: everything is as it was before it. That
 * is so at any time where the state is in a live file; where it is in memory,
 * only as long as the state has not taken in the gradients, that is until
 * SONEW_GRADIENT_SQUARES. After that the step can be finished (its numbers as
 * they are, if those of other machines do not come), or the optimizer freed,
 * and its last save loaded into another one.
 *
 * Errors: SONEW_NO_STAGES, SONEW_STATE_WRITTEN; in a live file SONEW_FORKED and
 * SONEW_IO. Since 0.1.
 */
sonew_status sonew_stages_abort(sonew_optimizer *optimizer);

/**
 * As sonew_stages_begin(), for a plan. Arguments are those of sonew_plan_step().
 *
 * Errors: those of sonew_plan_step(), but SONEW_NON_FINITE_GRADIENT. Since 0.1.
 */
sonew_status sonew_plan_stages_begin(sonew_plan *plan,
                                     const sonew_step_options *step,
                                     uint64_t step_number,
                                     const sonew_buffers *buffers,
                                     size_t count);

/** As sonew_stages_next(), for a plan. Since 0.1. */
sonew_status sonew_plan_stages_next(sonew_plan *plan,
                                    double *numbers,
                                    size_t count,
                                    int32_t *stage);

/**
 * Gives up a plan's step that is under way, at any time. From SONEW_LARGEST_L1
 * or SONEW_LENGTHS on, the state planes have taken in the gradients, and are
 * the caller's to put right; params or direction have not been written.
 *
 * Errors: SONEW_NO_STAGES. Since 0.1.
 */
sonew_status sonew_plan_stages_abort(sonew_plan *plan);

/******************************************************************************
 * XLA custom call
 *
 * JAX, and whatever else compiles to XLA, calls the library without a line of
 * C++: the function below is a handler of XLA's typed FFI (API version 0.1),
 * for the platform "cpu". The Python package in bindings/jax registers it and
 * hides what follows; other frontends register it under a name of their
 * choice, api_version 1, with has_side_effect false.
 *
 * The step is stateless: everything comes as operands and leaves as results,
 * every array with its last dimension fastest. Where operand and result are
 * one buffer (input_output_aliases) it is updated in place; where they are
 * two, it is copied first. T stands for the number of tensors.
 *
 *    attributes (i64 and f64 scalars, unless they say otherwise)
 *      names              string: the tensors' names, a line each
 *      chains, updates    s32[T]: as in sonew_tensor
 *      master             s32[T]: 1 for float32 master weights
 *      lr_scales, weight_decays   f64[T]: as in sonew_buffers
 *      band, threads, seed, statistics, damping, graft, bias_correction,
 *      graft_bias_correction, rounding, instruction_set   i64: as in
 *                         sonew_options
 *      non_finite         i64: as in sonew_step_options. A step that is skipped
 *                         is no error: it leaves everything as it was, and taken
 *                         is 0
 *      numbers            f64[10]: beta1, beta2, eps, gamma, graft_eps, lr,
 *                         grad_scale, statistics_weight, clip_norm, and what
 *                         multiplies weight_decays
 *      traced             i64: bit i is set where numbers[i] comes as an operand
 *      direction          i64: 1 to write the direction u instead of updating
 *                         parameters
 *      staged             i64: 1 for one stage of a step, see below
 *      reached            s32[R]: the stages before it: 0, 1, 2
 *    operands
 *      count              s32[]: steps taken so far
 *      traced             f32[k] or f64[k]: numbers that were left open, in order
 *      reached            u32[R, D, T, 2, 2], only if staged and R > 0
 *      for each tensor: parameters (not with direction, unless staged, when it
 *      is what earlier stages wrote, zeros at first), gradient, state planes
 *    results
 *      taken              s32[]: 1; 0 if a gradient was not finite
 *      for each tensor: u32[2, 2] only if staged, parameters or direction,
 *      state planes
 *
 * All operands and results may have the same further dimensions in front:
 * members of a batch, each of which takes a step of its own.
 *
 * Staged, for tensors that are parts of larger ones: one call goes on to the
 * next point where numbers of whole tensors are needed, and gives this part's.
 * A float64 is two u32, the low one first. The caller brings together the
 * numbers of all D parts (rows of zeros for tensors with fewer), which are
 * added, or, for stage 1, of which the first is the largest and the second
 * added. Stages are: 0 squares of gradients (with SONEW_SKIP, a clip_norm, or
 * SONEW_GRAFT_NORMALIZED_RMSPROP); 1 largest l1, and squares of the length to
 * be taken (with SONEW_RELATIVE, if a tensor has SONEW_UPDATE_SONEW); 2 squares
 * of the direction, and of the length to be taken (with a graft, if a tensor
 * has SONEW_UPDATE_SONEW). The call after the last stage applies.
 ******************************************************************************/

/**
 * The handler. call_frame is the runtime's XLA_FFI_CallFrame; the result is
 * NULL, or an XLA_FFI_Error with the code INVALID_ARGUMENT and a message as
 * sonew_last_error() would give it. May be called by several threads at once;
 * plans with their threads and scratch are kept between calls, at most 8 of
 * those that are not in use. Since 0.1.
 */
void *sonew_xla_step_v1(void *call_frame);

/**
 * Frees the plans that are kept for the handler's next calls, their scratch
 * and their threads; those in use are kept. For programs that are done with
 * training but not with themselves. Since 0.1.
 */
void sonew_xla_release(void);

/******************************************************************************
 * Version
 *
 * SONEW_VERSION_MAJOR and its like, at the top of this header, are those of
 * the header; these functions give those of the library in use. Before 1.0,
 * two versions work together if major and minor agree, from then on if major
 * agrees and the library is not the older one.
 ******************************************************************************/

/**
 * The version of the library, as in "0.1.0". Never NULL; the string is
 * constant. Since 0.1.
 */
const char *sonew_version(void);

/**
 * The version of the library as one number, to be compared with
 * SONEW_VERSION_NUMBER: major * 1000000 + minor * 1000 + patch. Since 0.1.
 */
uint32_t sonew_version_number(void);

/**
 * Where a field of one of this header's structs lies in the library in use:
 * its offset from the struct's start, in *offset, and its size, in *size, both
 * in bytes. structure is the struct's name, as in "sonew_tensor", and field the
 * field's; field may be NULL, which means the struct as a whole.
 *
 * For callers whose compiler does not read this header, so that a declaration
 * that differs is an error and not a crash.
 *
 * Errors: SONEW_INVALID_STRING, SONEW_UNKNOWN_NAME. Since 0.1.
 */
sonew_status sonew_struct_field(const char *structure,
                                const char *field,
                                size_t *offset,
                                size_t *size);

#ifdef __cplusplus
}
#endif

#endif /* SONEW_H */
