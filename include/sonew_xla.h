/******************************************************************************
 * sonew_xla.h - XLA custom call
 *
 * JAX, and other programs that compile to XLA, can call the library without
 * any C++: the function below is a handler of XLA's typed FFI (API version
 * 0.1) for the platform "cpu". The Python package in bindings/python registers it
 * and hides the details below; other frontends register it under any name, with
 * api_version 1 and has_side_effect false.
 *
 * The step is stateless: all inputs are operands and all outputs are results,
 * every array with its last dimension fastest. Where operand and result are
 * the same buffer (input_output_aliases), it is updated in place; where they
 * are different buffers, the operand is copied first. T is the number of
 * tensors.
 *
 *    attributes (i64 and f64 scalars, unless they say otherwise)
 *      names              string: the tensors' names, one per line
 *      chains, updates    s32[T]: as in sonew_tensor
 *      master             s32[T]: 1 for float32 master weights
 *      lr_scales, weight_decays   f64[T]: as in sonew_buffers
 *      band, threads, seed, statistics, damping, graft, bias_correction,
 *      graft_bias_correction, rounding, instruction_set   i64: as in
 *                         sonew_options
 *      lagged_norms, nesterov, pooling, rank   i64: the same, but lagged_norms is 0 or 1; may be
 *                         left out where they are 0
 *      non_finite         i64: as in sonew_step_options. A step that is skipped
 *                         is not an error: nothing changes, and taken is 0
 *      numbers            f64[11]: beta1, beta2, eps, gamma, graft_eps, lr,
 *                         grad_scale, statistics_weight, clip_norm, a factor that
 *                         multiplies all weight_decays, and shrink; f64[10], without
 *                         shrink, is taken as well, with 0 for it
 *      traced             i64: bit i is set where numbers[i] comes as an operand
 *      direction          i64: 1 to write the direction u instead of updating
 *                         parameters
 *      staged             i64: 1 for one stage of a step, see below
 *      reached            s32[R]: the stages that the step has reached before
 *                         this call: 0, 1, 2
 *      parts              i64: 1 if there is an operand parts, see below; may be left out
 *    operands
 *      count              s32[]: steps that every tensor took part in so far
 *      traced             f32[k] or f64[k]: the traced numbers, in order
 *      reached            u32[R, D, T, 2, 2], only if staged and R > 0: the
 *                         numbers of the stages before, see below
 *      parts              s32[T, 2], only with the attribute parts: for each tensor the number
 *                         of its first chain in a larger tensor, and how many chains that
 *                         has; zeros for one that is no part, or not pooled
 *      scalars            u32[T, 2, 2], only with SONEW_RELATIVE_LAGGED or
 *                         lagged_norms: for each tensor the first and the last of its
 *                         SONEW_SCALARS, each a float64 in two u32, the low one
 *                         first; zeros before the first step
 *      for each tensor: parameters, gradient, state planes. With direction 1 the
 *      parameters are left out; if staged, they are replaced by the direction that
 *      earlier stages wrote (zeros at first)
 *    results
 *      taken              s32[]: 1; 0 if a gradient was not finite
 *      scalars            u32[T, 2, 2], where they are an operand: those of this step
 *      for each tensor: u32[2, 2] only if staged, parameters or direction,
 *      state planes
 *
 * All operands and results may have the same additional leading dimensions.
 * They index the members of a batch, each of which takes a step of its own.
 *
 * Arrays of a tensor have its shape, but for the state plane "pooled" of sonew_pooling.
 *
 * Staged calls are for tensors that are parts of larger ones. One call
 * continues the step to its next stage, a point where numbers of whole tensors
 * are needed, and returns this part's two numbers for each tensor. Each is a
 * float64 in two u32, the low one first. The caller passes the numbers of all D
 * parts to the later calls (zeros for a tensor with fewer parts), and the
 * library reduces them: it adds them, except for the first number of stage 1,
 * of which it takes the maximum. The stages are: 0, the squared norm of the
 * gradient (with SONEW_SKIP, a clip_norm, or SONEW_GRAFT_NORMALIZED_RMSPROP);
 * 1, the largest l1, or the largest H[j][j], and the squared norm of the graft's vector a
 * (with SONEW_RELATIVE or SONEW_RELATIVE_LAGGED); 2, the squared norms of the direction and of a (with a graft). The
 * call after the last stage updates the parameters. With lagged_norms the call
 * that returns the numbers of stage 2 does, where the norm ratio of the step before
 * is not zero (but for parameters of 16 bits without master weights); the call after it
 * corrects an update that is too long. Only the scalars of the last call are those of this
 * step: until then they stay as they were.
 *
 * Of a part of a larger tensor whose correlations are pooled, the plane "pooled" has the sums of
 * the whole tensor, but those of the last step (elements n to 2 n, see sonew_pooling) of its own
 * chains alone, once the stages are done. The caller adds these up over the parts before the
 * next step. Chains must be whole, and the sums lagged. Groups of chains take turns by the
 * numbers in the operand parts; without it a part is taken for a tensor of its own.
 ******************************************************************************/

#ifndef SONEW_XLA_H
#define SONEW_XLA_H

/* Generated from src/xla with cbindgen: change it there. */

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The handler. call_frame is the runtime's XLA_FFI_CallFrame; the result is
 * NULL, or an XLA_FFI_Error with the code INVALID_ARGUMENT and a message like
 * those of sonew_last_error(). May be called by several threads at once. Plans,
 * with their threads and scratch memory, are kept between calls, but at most 64
 * idle ones. Since 0.2.
 */
void *sonew_xla_step_v1(void *call_frame);

/**
 * Frees the idle plans that are kept for the handler's next calls, with their
 * scratch memory, and the threads that nothing else has used. Plans in use are
 * kept. For programs that go on running after training. Since 0.2.
 */
void sonew_xla_release(void);

#ifdef __cplusplus
}
#endif

#endif /* SONEW_XLA_H */
