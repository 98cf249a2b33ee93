// sonew.hpp - SONew, the Sparsified Online Newton method, for C++17
//
// This header wraps sonew.h; link with libsonew. sonew.h describes what a call
// computes, and every option. This header adds objects that free themselves,
// exceptions, and buffers that know their length and type.
//
//    sonew::Optimizer optimizer({{"fc1.weight", {1000, 784}}, {"fc1.bias", {1000}}});
//    sonew::StepOptions step;
//    for (int i = 0; i < 1000; i++) {
//        compute_gradients(weight, bias, weight_grad, bias_grad);
//        step.lr = 1e-3;
//        optimizer.step({weight, bias}, {weight_grad, bias_grad}, step);
//    }
//    optimizer.save("step-1000.safetensors", {weight, bias});
//
// - Every error throws sonew::error, whose what() names the argument, the
//   tensor and the value. A call that throws has changed nothing.
// - A buffer is any object with contiguous elements (std::vector, std::array,
//   std::span, an array, a single number), of float, double, or a 16-bit type.
//   Buffers are passed by reference and never copied; their lengths and types
//   are compared with those of the tensors.
// - Optimizers, plans, pools, files, saves and steps in stages can be moved but not copied. An
//   object that was moved from can only be destroyed or assigned to; any other
//   use throws SONEW_NULL_POINTER.
// - Different objects may be used by different threads at once. Of two threads
//   that use one object, the second gets an error with SONEW_BUSY.
#ifndef SONEW_HPP
#define SONEW_HPP

#include <sonew.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__has_include)
#if __has_include(<version>)
#include <version>
#endif
#if __cplusplus > 202002L && __has_include(<stdfloat>)
#include <stdfloat>
#endif
#endif
#ifdef __cpp_lib_span
#include <span>
#endif

namespace sonew {

// ---------------------------------------------------------------------------
// Errors

/// Why a call was refused. what() is the message, status() the number, and
/// status_name() its name, such as "SONEW_OUT_OF_RANGE". The call has changed
/// nothing.
class error : public std::runtime_error {
 public:
  error(sonew_status status, const std::string &message)
      : std::runtime_error(message), status_(status) {}

  /// One of the numbers of sonew_status.
  sonew_status status() const noexcept { return status_; }
  /// Its name.
  const char *status_name() const noexcept { return sonew_status_name(status_); }

 private:
  sonew_status status_;
};

/// A gradient has a NaN, an infinity, or a number whose square overflows, and
/// the step was skipped: SONEW_NON_FINITE_GRADIENT. This is not a mistake of the
/// caller: with loss scaling, lower the scale and continue.
class non_finite_gradient : public error {
 public:
  explicit non_finite_gradient(const std::string &message)
      : error(SONEW_NON_FINITE_GRADIENT, message) {}
};

namespace detail {

inline void check(sonew_status status) {
  if (status == SONEW_OK) return;
  if (status == SONEW_NON_FINITE_GRADIENT) throw non_finite_gradient(sonew_last_error());
  throw error(status, sonew_last_error());
}

/// A string for C. Refuses one that contains a NUL, where C would see its end.
inline const char *c_string(const std::string &text, const char *argument) {
  if (text.find('\0') != std::string::npos)
    throw error(SONEW_INVALID_STRING, std::string(argument) + " has a NUL in it");
  return text.c_str();
}

template <class T>
T defaults(sonew_status (*init)(T *, std::size_t)) {
  T values;
  check(init(&values, sizeof values));
  return values;
}

inline const sonew_options &options() {
  static const sonew_options values = defaults(sonew_options_init);
  return values;
}

inline const sonew_step_options &step_options() {
  static const sonew_step_options values = defaults(sonew_step_options_init);
  return values;
}

/// A handle that is freed exactly once.
template <class T, sonew_status (*Free)(T *)>
class Handle {
 public:
  Handle() noexcept = default;
  Handle(Handle &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Handle &operator=(Handle &&other) noexcept {
    if (this != &other) {
      Free(handle_);
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  Handle(const Handle &) = delete;
  Handle &operator=(const Handle &) = delete;
  ~Handle() { Free(handle_); }

  T *get() const noexcept { return handle_; }
  T **out() noexcept { return &handle_; }
  T *release() noexcept { return std::exchange(handle_, nullptr); }

 private:
  T *handle_ = nullptr;
};

/// Refuses an object that was moved from, before anything else is compared with it.
inline void not_moved_from(const void *handle, const char *argument) {
  if (!handle) throw error(SONEW_NULL_POINTER, std::string(argument) + " is null: it was moved from");
}

/// Calls a function and returns what it writes to its last argument.
template <class T, class F, class... A>
T query(F function, A... arguments) {
  T value{};
  check(function(arguments..., &value));
  return value;
}

}  // namespace detail

// ---------------------------------------------------------------------------
// Element types and buffers

/// The type of a buffer's elements.
enum class Dtype : std::int32_t {
  /// The default of the field.
  by_default = SONEW_DTYPE_DEFAULT,
  /// float
  f32 = SONEW_F32,
  /// double
  f64 = SONEW_F64,
  /// bfloat16: the upper half of a float
  bf16 = SONEW_BF16,
  /// IEEE 754 binary16
  f16 = SONEW_F16,
};

/// "F32", "F64", "BF16" or "F16".
inline const char *name(Dtype dtype) noexcept {
  switch (dtype) {
    case Dtype::f32: return "F32";
    case Dtype::f64: return "F64";
    case Dtype::bf16: return "BF16";
    case Dtype::f16: return "F16";
    case Dtype::by_default: break;
  }
  return "the default";
}

/// The bits of a bfloat16, for programs that have no bfloat16 type of their own.
struct bf16 {
  std::uint16_t bits;
};

/// The bits of an IEEE 754 binary16.
struct f16 {
  std::uint16_t bits;
};

/// The element type that a C++ type stands for. To pass buffers of another
/// 16-bit type, specialize this template for it:
///
///     template <> struct sonew::dtype_of<Eigen::bfloat16> : sonew::is<sonew::Dtype::bf16> {};
///
/// It is defined for float, double, sonew::bf16, sonew::f16, and for
/// std::bfloat16_t and std::float16_t if the compiler has them.
template <class T>
struct dtype_of {};

/// The base class of a specialization of dtype_of.
template <Dtype D>
struct is {
  static constexpr Dtype value = D;
};

template <>
struct dtype_of<float> : is<Dtype::f32> {};
template <>
struct dtype_of<double> : is<Dtype::f64> {};
template <>
struct dtype_of<bf16> : is<Dtype::bf16> {};
template <>
struct dtype_of<f16> : is<Dtype::f16> {};
#ifdef __STDCPP_BFLOAT16_T__
template <>
struct dtype_of<std::bfloat16_t> : is<Dtype::bf16> {};
#endif
#ifdef __STDCPP_FLOAT16_T__
template <>
struct dtype_of<std::float16_t> : is<Dtype::f16> {};
#endif

namespace detail {

constexpr std::size_t size_of(Dtype dtype) noexcept {
  return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2;
}

/// The element type of T, checked against its size.
template <class T>
constexpr Dtype element() {
  constexpr Dtype dtype = dtype_of<std::remove_cv_t<T>>::value;
  static_assert(sizeof(T) == size_of(dtype) && std::is_trivially_copyable<T>::value,
                "dtype_of is specialized for a type of another size");
  return dtype;
}

template <class T, class = void>
struct is_element : std::false_type {};
template <class T>
struct is_element<T, std::void_t<decltype(dtype_of<std::remove_cv_t<T>>::value)>>
    : std::true_type {};

/// The type that a container's data() points to.
template <class C>
using element_of = std::remove_pointer_t<decltype(std::data(std::declval<C &>()))>;

template <class C, class = void>
struct is_readable : std::false_type {};
template <class C>
struct is_readable<C, std::void_t<element_of<C>, decltype(std::size(std::declval<C &>()))>>
    : is_element<element_of<C>> {};

template <class C, class = void>
struct is_writable : std::false_type {};
template <class C>
struct is_writable<C, std::enable_if_t<is_readable<C>::value>>
    : std::bool_constant<!std::is_const<element_of<C>>::value> {};

/// Whether a B can be constructed from each element of R.
template <class R, class B, class = void>
struct is_range : std::false_type {};
template <class R, class B>
struct is_range<R, B, std::void_t<decltype(*std::begin(std::declval<R &>()))>>
    : std::is_convertible<decltype(*std::begin(std::declval<R &>())), B> {};

}  // namespace detail

/// A reference to contiguous elements, like std::span of C++20. Converts from
/// and to std::span.
template <class T>
class Span {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using iterator = T *;

  constexpr Span() noexcept = default;
  constexpr Span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <class C, class = std::enable_if_t<
                         std::is_convertible<detail::element_of<C> (*)[], T (*)[]>::value &&
                         !std::is_same<std::remove_cv_t<std::remove_reference_t<C>>, Span>::value>>
  constexpr Span(C &&container) : data_(std::data(container)), size_(std::size(container)) {}

  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T *begin() const noexcept { return data_; }
  constexpr T *end() const noexcept { return data_ + size_; }
  constexpr T &operator[](std::size_t i) const { return data_[i]; }

 private:
  T *data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace sonew

#ifdef __cpp_lib_span
// A std::span may be constructed from a temporary Span, which owns nothing.
template <class T>
inline constexpr bool std::ranges::enable_borrowed_range<sonew::Span<T>> = true;
#endif

namespace sonew {

/// Elements that a call may write: constructed from a container, a span, an
/// array or a single number, or from a pointer and a length. It refers to the
/// elements and does not own them. nullptr means no buffer.
class Buffer {
 public:
  constexpr Buffer() noexcept = default;
  constexpr Buffer(std::nullptr_t) noexcept {}
  template <class T, std::enable_if_t<detail::is_element<T>::value, int> = 0>
  constexpr Buffer(T *data, std::size_t size) noexcept
      : data_(data), size_(size), dtype_(detail::element<T>()) {}
  template <class T, std::enable_if_t<detail::is_element<T>::value && !std::is_const<T>::value,
                                      long> = 0>
  constexpr Buffer(T &number) noexcept : Buffer(&number, 1) {}
  template <class C, std::enable_if_t<detail::is_writable<std::remove_reference_t<C>>::value,
                                      char> = 0>
  constexpr Buffer(C &&container) : Buffer(std::data(container), std::size(container)) {}

  constexpr void *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr Dtype dtype() const noexcept { return dtype_; }
  constexpr explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  void *data_ = nullptr;
  std::size_t size_ = 0;
  Dtype dtype_ = Dtype::by_default;
};

/// Elements that a call only reads. nullptr means no buffer.
class ConstBuffer {
 public:
  constexpr ConstBuffer() noexcept = default;
  constexpr ConstBuffer(std::nullptr_t) noexcept {}
  constexpr ConstBuffer(const Buffer &buffer) noexcept
      : data_(buffer.data()), size_(buffer.size()), dtype_(buffer.dtype()) {}
  template <class T, std::enable_if_t<detail::is_element<T>::value, int> = 0>
  constexpr ConstBuffer(const T *data, std::size_t size) noexcept
      : data_(data), size_(size), dtype_(detail::element<T>()) {}
  template <class T, std::enable_if_t<detail::is_element<T>::value, long> = 0>
  constexpr ConstBuffer(const T &number) noexcept : ConstBuffer(&number, 1) {}
  template <class C, std::enable_if_t<detail::is_readable<std::remove_reference_t<C>>::value,
                                      char> = 0>
  constexpr ConstBuffer(C &&container) : ConstBuffer(std::data(container), std::size(container)) {}

  constexpr const void *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr Dtype dtype() const noexcept { return dtype_; }
  constexpr explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  const void *data_ = nullptr;
  std::size_t size_ = 0;
  Dtype dtype_ = Dtype::by_default;
};

/// One buffer for each tensor, in the order of the tensors: a list in braces,
/// `{weight, bias}`; a container of buffers, or of containers; or, for a single
/// tensor, anything that a buffer can be constructed from.
template <class B>
class List {
 public:
  List() = default;
  List(std::initializer_list<B> buffers) : buffers_(buffers) {}
  template <class R, std::enable_if_t<
                         !std::is_same<std::remove_cv_t<std::remove_reference_t<R>>, List>::value &&
                             (std::is_convertible<R, B>::value || detail::is_range<R, B>::value),
                         int> = 0>
  List(R &&list) {
    if constexpr (std::is_convertible<R, B>::value)
      buffers_.push_back(std::forward<R>(list));
    else
      for (auto &&buffer : list) buffers_.push_back(buffer);
  }

  std::size_t size() const noexcept { return buffers_.size(); }
  bool empty() const noexcept { return buffers_.empty(); }
  const B &operator[](std::size_t i) const { return buffers_[i]; }
  auto begin() const noexcept { return buffers_.begin(); }
  auto end() const noexcept { return buffers_.end(); }

 private:
  std::vector<B> buffers_;
};

/// Buffers that a call may write, one for each tensor.
using Buffers = List<Buffer>;
/// Buffers that a call only reads, one for each tensor.
using ConstBuffers = List<ConstBuffer>;

// ---------------------------------------------------------------------------
// Options and tensors

/// How gradients enter the diagonal and the sub-diagonals: sonew_statistics.
enum class Statistics : std::int32_t {
  moving_average = SONEW_MOVING_AVERAGE,
  weighted_sum = SONEW_WEIGHTED_SUM,
};

/// What is added to the diagonal before it is inverted: sonew_damping.
enum class Damping : std::int32_t {
  absolute = SONEW_ABSOLUTE,
  relative = SONEW_RELATIVE,
};

/// The method whose norm the update takes: sonew_graft.
enum class Graft : std::int32_t {
  none = SONEW_GRAFT_NONE,
  sgd = SONEW_GRAFT_SGD,
  momentum = SONEW_GRAFT_MOMENTUM,
  adam = SONEW_GRAFT_ADAM,
  normalized_rmsprop = SONEW_GRAFT_NORMALIZED_RMSPROP,
};

/// How numbers are rounded to 16 bits: sonew_rounding.
enum class Rounding : std::int32_t {
  nearest = SONEW_NEAREST,
  stochastic = SONEW_STOCHASTIC,
};

/// An instruction set: sonew_isa.
enum class Isa : std::int32_t {
  automatic = SONEW_ISA_AUTO,
  portable = SONEW_ISA_PORTABLE,
  avx2 = SONEW_ISA_AVX2,
  avx512 = SONEW_ISA_AVX512,
  neon = SONEW_ISA_NEON,
};

/// Which coordinates are neighbours: sonew_chains.
enum class Chains : std::int32_t {
  row_major = SONEW_ROW_MAJOR,
  column_major = SONEW_COLUMN_MAJOR,
  rows = SONEW_ROWS,
  columns = SONEW_COLUMNS,
};

/// How a tensor is updated: sonew_update.
enum class Update : std::int32_t {
  sonew = SONEW_UPDATE_SONEW,
  adam = SONEW_UPDATE_ADAM,
};

/// What a step does about gradients that are not finite: sonew_non_finite.
enum class NonFinite : std::int32_t {
  skip = SONEW_SKIP,
  unchecked = SONEW_UNCHECKED,
};

/// The point that a step in stages has reached, and what its numbers are:
/// sonew_stage.
enum class Stage : std::int32_t {
  done = SONEW_DONE,
  /// Sums of squares: reduce with a sum. Nothing has been written yet.
  gradient_squares = SONEW_GRADIENT_SQUARES,
  /// Reduce with a maximum. The state has been updated with the gradients.
  largest_l1 = SONEW_LARGEST_L1,
  /// Squared norms: reduce with a sum. The state has been updated with the
  /// gradients.
  norms = SONEW_NORMS,
};

/// How a file is opened: sonew_load_mode.
enum class LoadMode : std::int32_t {
  /// Read into memory, with every checksum verified.
  read = SONEW_READ,
  /// Mapped copy-on-write, in constant time; the file is never changed.
  map_private = SONEW_MAP_PRIVATE,
  /// The state stays in the file, which must be a live file.
  map_shared = SONEW_MAP_SHARED,
};

/// A pool of threads that any number of optimizers and plans share: sonew_pool. They
/// keep it: it may be destroyed before them. Any number of threads may use it at once.
class Pool {
 public:
  /// Creates a pool of so many threads, whose own run on these processors only, if
  /// there are any in the list. sonew_pool_create().
  explicit Pool(std::int32_t threads = 0, const std::vector<std::size_t> &processors = {}) {
    detail::check(
        sonew_pool_create(threads, processors.data(), processors.size(), handle_.out()));
  }

  /// The largest number of threads that a step uses. sonew_pool_threads().
  std::size_t threads() const {
    return detail::query<std::size_t>(sonew_pool_threads, get());
  }

  /// The handle, for functions of sonew.h; this object still owns it.
  sonew_pool *get() const noexcept { return handle_.get(); }

 private:
  detail::Handle<sonew_pool, sonew_pool_free> handle_;
};

/// The options of an optimizer. The fields, their ranges and their defaults are
/// those of sonew_options.
struct Options {
  std::int32_t band = detail::options().band;
  std::int32_t threads = detail::options().threads;
  double beta1 = detail::options().beta1;
  double beta2 = detail::options().beta2;
  double eps = detail::options().eps;
  double gamma = detail::options().gamma;
  double graft_eps = detail::options().graft_eps;
  double weight_decay = detail::options().weight_decay;
  std::uint64_t seed = detail::options().seed;
  Statistics statistics = static_cast<Statistics>(detail::options().statistics);
  Damping damping = static_cast<Damping>(detail::options().damping);
  Graft graft = static_cast<Graft>(detail::options().graft);
  bool bias_correction = detail::options().bias_correction != 0;
  bool graft_bias_correction = detail::options().graft_bias_correction != 0;
  Rounding rounding = static_cast<Rounding>(detail::options().rounding);
  Isa instruction_set = static_cast<Isa>(detail::options().instruction_set);
  bool lagged_norms = detail::options().lagged_norms != 0;
  bool nesterov = detail::options().nesterov != 0;
  /// Used while an optimizer or a plan is created, which then keep it.
  const Pool *pool = nullptr;
};

/// One parameter tensor: contiguous, its last dimension fastest. Name and
/// dimensions are enough, as in `{"fc1.weight", {1000, 784}}`; a scalar has no
/// dimensions. The fields are those of sonew_tensor.
struct Tensor {
  std::string name;
  std::vector<std::size_t> dims = {};
  Chains chains = Chains::row_major;
  Update update = Update::sonew;
  /// The type of the parameters; float32 by default.
  Dtype dtype = Dtype::by_default;
  /// The type of the gradients; by default that of the parameters.
  Dtype grad_dtype = Dtype::by_default;
  /// The type of the state; by default float64 if the parameters are float64,
  /// otherwise float32.
  Dtype state_dtype = Dtype::by_default;
  /// Keep float32 master weights in the state.
  bool master = false;
};

/// The options of one step. The fields, their ranges and their defaults are
/// those of sonew_step_options.
struct StepOptions {
  double lr = detail::step_options().lr;
  double grad_scale = detail::step_options().grad_scale;
  double statistics_weight = detail::step_options().statistics_weight;
  double clip_norm = detail::step_options().clip_norm;
  double beta1 = detail::step_options().beta1;
  double beta2 = detail::step_options().beta2;
  NonFinite non_finite = static_cast<NonFinite>(detail::step_options().non_finite);
};

/// Which differences between file and optimizer a load accepts, by default none,
/// and how the file is opened. The fields are those of sonew_load_options.
struct LoadOptions {
  /// Tensors whose names differ: (name in the file, name in the optimizer).
  std::vector<std::pair<std::string, std::string>> renames = {};
  bool override_options = false;
  bool common_tensors_only = false;
  LoadMode mode = LoadMode::read;
  bool older_copy = false;
  /// Convert state planes that have another type in the file.
  bool convert_state = false;
};

/// A tensor of an optimizer or of a file, and its settings: sonew_tensor_state.
struct TensorState {
  /// With every type named, for the constructors of Optimizer and Plan.
  Tensor tensor;
  double lr_scale = 1;
  double weight_decay = 0;
  /// The number of the steps that it took part in.
  std::uint64_t step_count = 0;
  /// The names of its state planes; of a file that has the parameters,
  /// "parameter" follows.
  std::vector<std::string> arrays = {};
  /// Whether it has master weights that have been copied from the parameters.
  bool master_set = false;
};

namespace detail {

inline sonew_options to_c(const Options &o) {
  sonew_options c = defaults(sonew_options_init);
  c.band = o.band;
  c.threads = o.threads;
  c.beta1 = o.beta1;
  c.beta2 = o.beta2;
  c.eps = o.eps;
  c.gamma = o.gamma;
  c.graft_eps = o.graft_eps;
  c.weight_decay = o.weight_decay;
  c.seed = o.seed;
  c.statistics = static_cast<std::int32_t>(o.statistics);
  c.damping = static_cast<std::int32_t>(o.damping);
  c.graft = static_cast<std::int32_t>(o.graft);
  c.bias_correction = o.bias_correction;
  c.graft_bias_correction = o.graft_bias_correction;
  c.rounding = static_cast<std::int32_t>(o.rounding);
  c.instruction_set = static_cast<std::int32_t>(o.instruction_set);
  c.lagged_norms = o.lagged_norms;
  c.nesterov = o.nesterov;
  if (o.pool) {
    not_moved_from(o.pool->get(), "options.pool");
    c.pool = o.pool->get();
  }
  return c;
}

inline sonew_step_options to_c(const StepOptions &o) {
  sonew_step_options c = step_options();
  c.lr = o.lr;
  c.grad_scale = o.grad_scale;
  c.statistics_weight = o.statistics_weight;
  c.clip_norm = o.clip_norm;
  c.beta1 = o.beta1;
  c.beta2 = o.beta2;
  c.non_finite = static_cast<std::int32_t>(o.non_finite);
  return c;
}

inline sonew_tensor to_c(const Tensor &t) {
  sonew_tensor c = {};
  c.name = c_string(t.name, "a tensor's name");
  c.ndim = t.dims.size();  // The library refuses a number that is too large.
  for (std::size_t i = 0; i < c.ndim && i < SONEW_MAX_DIMS; i++) c.dims[i] = t.dims[i];
  c.chains = static_cast<std::int32_t>(t.chains);
  c.update = static_cast<std::int32_t>(t.update);
  c.dtype = static_cast<std::int32_t>(t.dtype);
  c.grad_dtype = static_cast<std::int32_t>(t.grad_dtype);
  c.state_dtype = static_cast<std::int32_t>(t.state_dtype);
  c.master = t.master;
  return c;
}

inline std::vector<sonew_tensor> to_c(const std::vector<Tensor> &tensors) {
  std::vector<sonew_tensor> c;
  c.reserve(tensors.size());
  for (const Tensor &tensor : tensors) c.push_back(to_c(tensor));
  return c;
}

inline Options from_c(const sonew_options &c) {
  Options o;
  o.band = c.band;
  o.threads = c.threads;
  o.beta1 = c.beta1;
  o.beta2 = c.beta2;
  o.eps = c.eps;
  o.gamma = c.gamma;
  o.graft_eps = c.graft_eps;
  o.weight_decay = c.weight_decay;
  o.seed = c.seed;
  o.statistics = static_cast<Statistics>(c.statistics);
  o.damping = static_cast<Damping>(c.damping);
  o.graft = static_cast<Graft>(c.graft);
  o.bias_correction = c.bias_correction != 0;
  o.graft_bias_correction = c.graft_bias_correction != 0;
  o.rounding = static_cast<Rounding>(c.rounding);
  o.instruction_set = static_cast<Isa>(c.instruction_set);
  o.lagged_norms = c.lagged_norms != 0;
  o.nesterov = c.nesterov != 0;
  return o;
}

inline TensorState from_c(const sonew_tensor_state &c) {
  TensorState state;
  state.tensor.name = c.tensor.name;
  state.tensor.dims.assign(c.tensor.dims, c.tensor.dims + c.tensor.ndim);
  state.tensor.chains = static_cast<Chains>(c.tensor.chains);
  state.tensor.update = static_cast<Update>(c.tensor.update);
  state.tensor.dtype = static_cast<Dtype>(c.tensor.dtype);
  state.tensor.grad_dtype = static_cast<Dtype>(c.tensor.grad_dtype);
  state.tensor.state_dtype = static_cast<Dtype>(c.tensor.state_dtype);
  state.tensor.master = c.tensor.master != 0;
  state.lr_scale = c.lr_scale;
  state.weight_decay = c.weight_decay;
  state.step_count = c.step_count;
  state.arrays.assign(c.arrays, c.arrays + c.array_count);
  state.master_set = c.master_set != 0;
  return state;
}

/// The length and the types that buffers of a tensor must have.
struct Expected {
  std::string name;
  std::size_t size = 1;
  Dtype dtype, grad_dtype;

  /// For a tensor that the library has accepted.
  explicit Expected(const Tensor &t)
      : name(t.name),
        dtype(t.dtype == Dtype::by_default ? Dtype::f32 : t.dtype),
        grad_dtype(t.grad_dtype == Dtype::by_default ? dtype : t.grad_dtype) {
    for (std::size_t dim : t.dims) size *= dim;
  }

  void fits(const ConstBuffer &buffer, const char *what, Dtype expected) const {
    if (!buffer) return;
    const std::string start = "tensor \"" + name + "\": " + what + " has ";
    if (buffer.dtype() != expected)
      throw error(SONEW_WRONG_DTYPE, start + "type " + sonew::name(buffer.dtype()) +
                                         ", expected " + sonew::name(expected));
    if (buffer.size() != size)
      throw error(SONEW_WRONG_LENGTH, start + std::to_string(buffer.size()) +
                                          " elements, expected " + std::to_string(size));
  }
};

inline std::vector<Expected> expected(const std::vector<Tensor> &tensors) {
  return std::vector<Expected>(tensors.begin(), tensors.end());
}

inline void check_count(const char *argument, std::size_t count, std::size_t expected) {
  if (count != expected)
    throw error(SONEW_TENSOR_COUNT, std::string(argument) + " has " + std::to_string(count) +
                                        " tensors, expected " + std::to_string(expected));
}

/// Pointers to parameters that were compared with their tensors.
template <class B>
std::vector<void *> parameters(const std::vector<Expected> &tensors, const List<B> &params) {
  check_count("params", params.size(), tensors.size());
  std::vector<void *> pointers;
  pointers.reserve(params.size());
  for (std::size_t i = 0; i < params.size(); i++) {
    tensors[i].fits(params[i], "the parameter", tensors[i].dtype);
    pointers.push_back(const_cast<void *>(static_cast<const void *>(params[i].data())));
  }
  return pointers;
}

inline std::vector<const void *> gradients(const std::vector<Expected> &tensors,
                                           const ConstBuffers &grads) {
  check_count("grads", grads.size(), tensors.size());
  std::vector<const void *> pointers;
  pointers.reserve(grads.size());
  for (std::size_t i = 0; i < grads.size(); i++) {
    tensors[i].fits(grads[i], "the gradient", tensors[i].grad_dtype);
    pointers.push_back(grads[i].data());
  }
  return pointers;
}

}  // namespace detail

// ---------------------------------------------------------------------------
// Optimizer

/// A view of a state plane, not a copy: sonew_view. It is valid until the next
/// call that steps, loads into or destroys the optimizer: request a new one
/// then.
class View {
 public:
  explicit View(const sonew_view &view) noexcept : view_(view) {}

  /// The first element, aligned to 64 bytes.
  const void *data() const noexcept { return view_.data; }
  /// Number of elements.
  std::size_t size() const noexcept { return view_.len; }
  /// The type of the elements.
  Dtype dtype() const noexcept { return static_cast<Dtype>(view_.dtype); }
  /// The tensor's name.
  std::string_view tensor() const noexcept { return view_.tensor; }
  /// The plane's name.
  std::string_view plane() const noexcept { return view_.plane; }
  /// The number of the steps that the tensor took part in.
  std::uint64_t step_count() const noexcept { return view_.step_count; }
  /// The tensor's dimensions, slowest first.
  Span<const std::size_t> dims() const noexcept { return {view_.dims, view_.ndim}; }

  /// The elements. Throws SONEW_WRONG_DTYPE if they are of another type.
  template <class T>
  Span<const T> as() const {
    if (dtype() != detail::element<T>())
      throw error(SONEW_WRONG_DTYPE, "tensor \"" + std::string(tensor()) + "\": " +
                                         std::string(plane()) + " has type " +
                                         sonew::name(dtype()) + ", expected " +
                                         sonew::name(detail::element<T>()));
    return {static_cast<const T *>(view_.data), view_.len};
  }

 private:
  sonew_view view_;
};

/// A save in the background: sonew_save_begin(). Its destructor waits for the
/// save to end and ignores errors; finish() reports them.
class Saving {
 public:
  Saving(Saving &&other) noexcept
      : handle_(std::move(other.handle_)), finished_(std::exchange(other.finished_, false)) {}
  Saving &operator=(Saving &&other) noexcept {
    handle_ = std::move(other.handle_);
    if (this != &other) finished_ = std::exchange(other.finished_, false);
    return *this;
  }

  /// Waits until the save has ended. Throws an error if it failed. Another call
  /// does nothing.
  void finish() {
    if (finished_) return;
    detail::not_moved_from(handle_.get(), "saving");
    finished_ = true;
    detail::check(sonew_save_finish(handle_.release()));
  }

 private:
  friend class Optimizer;
  Saving() = default;
  detail::Handle<sonew_saving, sonew_save_finish> handle_;
  bool finished_ = false;
};

/// A step that stops where sums or maxima over whole tensors are needed, for
/// programs whose tensors are spread over several machines. Created by
/// Optimizer::stages() or Plan::stages().
///
///     auto stages = optimizer.stages({weight, bias}, {weight_grad, bias_grad});
///     for (sonew::Stage stage; (stage = stages.next()) != sonew::Stage::done;)
///       all_reduce(stages.numbers(), stage == sonew::Stage::largest_l1 ? MPI_MAX : MPI_SUM);
///
/// The buffers must stay in place until the step is done or this object is
/// destroyed. Destroying it, as an exception between two stages does, ends the
/// step, so that the optimizer can be used again: it aborts the step if that is
/// possible, as abort() does. If the state has already been updated with the
/// gradients, and is not in a live file, it finishes the step instead, with the
/// numbers of this part alone, whatever was put in their place.
class Stages {
 public:
  Stages(Stages &&other) noexcept
      : optimizer_(std::exchange(other.optimizer_, nullptr)),
        plan_(std::exchange(other.plan_, nullptr)),
        numbers_(std::exchange(other.numbers_, {})),
        own_(std::exchange(other.own_, {})) {}
  Stages &operator=(Stages &&) = delete;
  ~Stages() {
    if (is_open() && abort_status() == SONEW_STATE_WRITTEN) finish();
  }

  /// Continues the step to its next stage, with the numbers as they are now.
  /// sonew_stages_next(). Throws non_finite_gradient if a sum of squares is NaN:
  /// the step has ended and nothing has changed.
  Stage next() {
    check_open();
    std::int32_t stage = SONEW_DONE;
    const sonew_status status = next_status(stage);
    if (status == SONEW_NON_FINITE_GRADIENT || (status == SONEW_OK && stage == SONEW_DONE)) close();
    detail::check(status);
    return static_cast<Stage>(stage);
  }

  /// The numbers of the stage that was reached, two for each tensor. Reduce them
  /// in place.
  Span<double> numbers() {
    not_moved_from();
    return numbers_;
  }

  /// Aborts the step. Throws SONEW_STATE_WRITTEN if the state of an optimizer
  /// has been updated with the gradients and is not in a live file: the step can
  /// then only be finished, by next() or by destroying this object.
  /// sonew_stages_abort().
  void abort() {
    check_open();
    detail::check(abort_status());
    close();
  }

 private:
  friend class Optimizer;
  friend class Plan;
  // Before the step begins, so that an exception here leaves none under way.
  explicit Stages(std::size_t tensors) : numbers_(2 * tensors), own_(2 * tensors) {}

  // False after the end: the optimizer may then have another step under way.
  bool is_open() const noexcept { return optimizer_ || plan_; }
  void close() noexcept {
    optimizer_ = nullptr;
    plan_ = nullptr;
  }
  void not_moved_from() const {
    detail::not_moved_from(numbers_.empty() ? nullptr : this, "the step in stages");
  }
  void check_open() const {
    not_moved_from();
    if (!is_open()) throw error(SONEW_NO_STAGES, "the step in stages is over");
  }
  sonew_status next_status(std::int32_t &stage) noexcept {
    const std::size_t count = numbers_.size() / 2;
    const sonew_status status =
        plan_ ? sonew_plan_stages_next(plan_, numbers_.data(), count, &stage)
              : sonew_stages_next(optimizer_, numbers_.data(), count, &stage);
    if (status == SONEW_OK) std::copy(numbers_.begin(), numbers_.end(), own_.begin());
    return status;
  }
  sonew_status abort_status() noexcept {
    return plan_ ? sonew_plan_stages_abort(plan_) : sonew_stages_abort(optimizer_);
  }
  void finish() noexcept {
    std::int32_t stage = SONEW_DONE;
    do std::copy(own_.begin(), own_.end(), numbers_.begin());
    while (next_status(stage) == SONEW_OK && stage != SONEW_DONE);
  }

  sonew_optimizer *optimizer_ = nullptr;
  sonew_plan *plan_ = nullptr;
  std::vector<double> numbers_;
  std::vector<double> own_;  // The numbers of the last stage, as they came.
};

/// An optimizer that owns the state of a list of tensors: sonew_optimizer.
/// Parameters and gradients stay in the caller's buffers.
class Optimizer {
 public:
  /// Creates an optimizer with all state zero. sonew_create().
  explicit Optimizer(const std::vector<Tensor> &tensors, const Options &options = {})
      : tensors_(detail::expected(tensors)) {
    const sonew_options c = detail::to_c(options);
    const std::vector<sonew_tensor> list = detail::to_c(tensors);
    detail::check(sonew_create(&c, list.data(), list.size(), handle_.out()));
  }
  /// Creates an optimizer from a file alone, with its options, tensors, state and
  /// step counts. sonew_open().
  static Optimizer open(const std::string &path, LoadMode mode = LoadMode::read) {
    Optimizer optimizer;
    detail::check(sonew_open(detail::c_string(path, "path"), static_cast<std::int32_t>(mode),
                             optimizer.handle_.out()));
    const std::size_t count = optimizer.tensor_count();
    for (std::size_t i = 0; i < count; i++)
      optimizer.tensors_.emplace_back(optimizer.tensor(i).tensor);
    return optimizer;
  }
  Optimizer(Optimizer &&) noexcept = default;
  Optimizer &operator=(Optimizer &&other) noexcept {
    if (this != &other) {
      tensors_ = std::move(other.tensors_);
      handle_ = std::move(other.handle_);
    }
    return *this;
  }

  /// Takes one step: parameters and state are updated from the gradients, and
  /// the step count grows by one. Both lists have one buffer for each tensor; a
  /// gradient may be nullptr: that tensor then takes no part in the step, and its
  /// own step count stays as it is. sonew_step_any().
  ///
  /// Throws non_finite_gradient if the step was skipped because of a gradient
  /// that is not finite, and error for everything else.
  void step(const Buffers &params, const ConstBuffers &grads, const StepOptions &options = {}) {
    detail::check(step_status(params, grads, options));
  }

  /// As step(), but returns false if the step was skipped because of a gradient
  /// that is not finite.
  [[nodiscard]] bool try_step(const Buffers &params, const ConstBuffers &grads,
                              const StepOptions &options = {}) {
    const sonew_status status = step_status(params, grads, options);
    if (status != SONEW_NON_FINITE_GRADIENT) detail::check(status);
    return status == SONEW_OK;
  }

  /// Begins a step in stages. sonew_stages_begin().
  [[nodiscard]] Stages stages(const Buffers &params, const ConstBuffers &grads,
                              const StepOptions &options = {}) {
    const sonew_step_options c = detail::to_c(options);
    const auto p = detail::parameters(tensors(), params);
    const auto g = detail::gradients(tensors(), grads);
    Stages stages(p.size());
    detail::check(sonew_stages_begin(get(), &c, p.data(), g.data(), p.size()));
    stages.optimizer_ = get();
    return stages;
  }

  /// Saves the state, and the parameters if they are given. A file at path is
  /// replaced only when the new one is on disk. sonew_save_any().
  void save(const std::string &path, const ConstBuffers &params = {}) const {
    const auto pointers = optional(params);
    detail::check(sonew_save_any(get(), detail::c_string(path, "path"), pointers.data(),
                                 pointers.size()));
  }

  /// Begins a save in the background; the optimizer can be used at once.
  /// sonew_save_begin().
  [[nodiscard]] Saving save_begin(const std::string &path, const ConstBuffers &params = {}) const {
    const auto pointers = optional(params);
    Saving saving;
    detail::check(sonew_save_begin(get(), detail::c_string(path, "path"), pointers.data(),
                                   pointers.size(), saving.handle_.out()));
    return saving;
  }

  /// Loads a file, and the parameters if buffers for them are given.
  /// sonew_load_any().
  void load(const std::string &path, const Buffers &params = {}, const LoadOptions &options = {}) {
    std::vector<sonew_rename> renames;
    for (const auto &[from, to] : options.renames)
      renames.push_back({detail::c_string(from, "a rename"), detail::c_string(to, "a rename")});
    sonew_load_options c = detail::defaults(sonew_load_options_init);
    c.renames = renames.data();
    c.rename_count = renames.size();
    c.override_options = options.override_options;
    c.common_tensors_only = options.common_tensors_only;
    c.older_copy = options.older_copy;
    c.mode = static_cast<std::int32_t>(options.mode);
    c.convert_state = options.convert_state;
    const auto pointers = optional(params);
    detail::check(sonew_load_any(get(), detail::c_string(path, "path"), &c, pointers.data(),
                                 pointers.size()));
  }

  /// Moves the state into a new live file. sonew_make_live().
  void make_live(const std::string &path) {
    detail::check(sonew_make_live(get(), detail::c_string(path, "path")));
  }

  /// Writes a live file's last step to disk. sonew_sync().
  void sync() const { detail::check(sonew_sync(get())); }

  /// Discards the master weights, so that the next step copies them from the
  /// parameters again. sonew_reset_master().
  void reset_master() { detail::check(sonew_reset_master(get())); }

  /// A tensor and its settings. sonew_optimizer_tensor().
  TensorState tensor(std::size_t tensor) const {
    sonew_tensor_state state;
    detail::check(sonew_optimizer_tensor(get(), tensor, &state, sizeof state));
    return detail::from_c(state);
  }

  /// The index of the tensor with this name. Indices count from 0, in the order
  /// of the tensors.
  std::size_t find_tensor(const std::string &name) const {
    std::size_t tensor = 0;
    detail::check(sonew_find_tensor(get(), detail::c_string(name, "name"), &tensor));
    return tensor;
  }

  /// The factor on the learning rate of a tensor; 1 at first.
  double lr_scale(std::size_t tensor) const {
    return detail::query<double>(sonew_lr_scale, get(), tensor);
  }
  /// Changes the factor on the learning rate of a tensor; finite and not
  /// negative.
  void set_lr_scale(std::size_t tensor, double scale) {
    detail::check(sonew_set_lr_scale(get(), tensor, scale));
  }

  /// The decoupled weight decay of a tensor; at first that of the options.
  double weight_decay(std::size_t tensor) const {
    return detail::query<double>(sonew_weight_decay, get(), tensor);
  }
  /// Changes the decoupled weight decay of a tensor; finite and not negative.
  void set_weight_decay(std::size_t tensor, double decay) {
    detail::check(sonew_set_weight_decay(get(), tensor, decay));
  }

  /// What there is to know of the optimizer as a whole, also while another thread uses
  /// it. sonew_info().
  sonew_optimizer_info info() const {
    sonew_optimizer_info info;
    detail::check(sonew_info(get(), &info, sizeof info));
    return info;
  }

  /// Steps taken so far.
  std::uint64_t step_count() const {
    return info().step_count;
  }

  /// The number of the steps that a tensor took part in, which its bias
  /// correction counts.
  std::uint64_t tensor_step_count(std::size_t tensor) const {
    return detail::query<std::uint64_t>(sonew_tensor_step_count, get(), tensor);
  }
  /// Changes the number of the steps that a tensor took part in, after
  /// set_state().
  void set_tensor_step_count(std::size_t tensor, std::uint64_t count) {
    detail::check(sonew_set_tensor_step_count(get(), tensor, count));
  }

  /// The numbers of a tensor's state besides its planes. sonew_tensor_scalars().
  std::array<double, SONEW_SCALARS> tensor_scalars(std::size_t tensor) const {
    std::array<double, SONEW_SCALARS> scalars;
    detail::check(sonew_tensor_scalars(get(), tensor, scalars.data()));
    return scalars;
  }
  /// Changes them, after set_state(). sonew_set_tensor_scalars().
  void set_tensor_scalars(std::size_t tensor, const std::array<double, SONEW_SCALARS> &scalars) {
    detail::check(sonew_set_tensor_scalars(get(), tensor, scalars.data()));
  }

  /// The gradient norm of the last step, over all tensors; NaN if the step did
  /// not compute it.
  double gradient_norm() const {
    return info().gradient_norm;
  }

  /// The number of tensors.
  std::size_t tensor_count() const {
    return info().tensor_count;
  }

  /// Size of the state in bytes.
  std::size_t state_bytes() const {
    return info().state_bytes;
  }

  /// Bytes of memory that the library holds for this optimizer in all.
  std::size_t memory_bytes() const {
    return info().memory_bytes;
  }

  /// The largest number of threads that a step uses.
  std::size_t threads() const {
    return info().threads;
  }

  /// The instruction set in use: "avx512", "avx2", "neon" or "portable".
  std::string instruction_set() const {
    return info().instruction_set;
  }

  /// The number of state planes of a tensor.
  std::size_t plane_count(std::size_t tensor) const {
    return detail::query<std::size_t>(sonew_plane_count, get(), tensor);
  }

  /// The index of a tensor's state plane with this name: "momentum", "diagonal",
  /// "band.1" and so on, "rms", "master".
  std::size_t find_plane(std::size_t tensor, const std::string &name) const {
    std::size_t plane = 0;
    detail::check(sonew_find_plane(get(), tensor, detail::c_string(name, "name"), &plane));
    return plane;
  }

  /// A view of a state plane. sonew_plane_view().
  View plane(std::size_t tensor, std::size_t plane) const {
    sonew_view view;
    detail::check(sonew_plane_view(get(), tensor, plane, &view, sizeof view));
    return View(view);
  }
  /// A view of a state plane, found by names.
  View plane(const std::string &tensor, const std::string &plane) const {
    const std::size_t index = find_tensor(tensor);
    return this->plane(index, find_plane(index, plane));
  }

  /// Replaces the state by a copy of the caller's: its step count, which becomes
  /// that of every tensor, too, and all planes, those of the first tensor first.
  /// sonew_set_state().
  void set_state(std::uint64_t step_count, const ConstBuffers &planes) {
    std::vector<const void *> pointers;
    for (std::size_t i = 0; i < tensors_.size(); i++)
      for (std::size_t p = 0; p < plane_count(i) && pointers.size() < planes.size(); p++) {
        const ConstBuffer &plane = planes[pointers.size()];
        const View own = this->plane(i, p);
        tensors_[i].fits(plane, std::string(own.plane()).c_str(), own.dtype());
        pointers.push_back(plane.data());
      }
    for (std::size_t i = pointers.size(); i < planes.size(); i++)
      pointers.push_back(planes[i].data());
    detail::check(sonew_set_state(get(), step_count, pointers.data(), pointers.size()));
  }

  /// The handle, for functions of sonew.h; this object still owns it.
  sonew_optimizer *get() const noexcept { return handle_.get(); }

 private:
  Optimizer() = default;

  sonew_status step_status(const Buffers &params, const ConstBuffers &grads,
                           const StepOptions &options) {
    const sonew_step_options c = detail::to_c(options);
    const auto p = detail::parameters(tensors(), params);
    const auto g = detail::gradients(tensors(), grads);
    return sonew_step_any(get(), &c, p.data(), g.data(), p.size());
  }

  /// Pointers to buffers, or no list at all.
  template <class B>
  std::vector<void *> optional(const List<B> &params) const {
    if (params.empty()) return {};
    return detail::parameters(tensors(), params);
  }

  const std::vector<detail::Expected> &tensors() const {
    detail::not_moved_from(get(), "optimizer");
    return tensors_;
  }

  std::vector<detail::Expected> tensors_;
  detail::Handle<sonew_optimizer, sonew_free> handle_;
};

/// The contents of a file, without an optimizer: sonew_file. While it exists, no
/// optimizer can work on the file if it is a live file.
///
///     sonew::File file("step-1000.safetensors");
///     sonew::Options options = file.options();
///     options.threads = 4;
///     sonew::Optimizer optimizer(file.tensors(), options);
///     optimizer.load("step-1000.safetensors", params);
class File {
 public:
  /// Opens a file, and checks its header and its sizes. sonew_file_open().
  explicit File(const std::string &path) {
    detail::check(sonew_file_open(detail::c_string(path, "path"), handle_.out()));
  }

  /// The step count of the state.
  std::uint64_t step_count() const { return info().step_count; }
  /// Length of the file in bytes.
  std::uint64_t file_bytes() const { return info().file_bytes; }
  /// The version of its format.
  std::int32_t format() const { return info().format; }
  /// The number of tensors.
  std::size_t tensor_count() const { return info().tensor_count; }
  /// Whether it has the parameters of every tensor, as "parameter".
  bool has_parameters() const { return info().parameters != 0; }
  /// Whether it is a live file.
  bool is_live() const { return info().live != 0; }
  /// Whether it is a live file that was not synced after its last step.
  bool is_unsynced() const { return info().unsynced != 0; }

  /// The options of the optimizer that wrote the file; threads and instruction_set
  /// have their defaults. sonew_file_options().
  Options options() const {
    sonew_options options;
    detail::check(sonew_file_options(handle_.get(), &options, sizeof options));
    return detail::from_c(options);
  }

  /// A tensor and its settings. sonew_file_tensor().
  TensorState tensor(std::size_t tensor) const {
    sonew_tensor_state state;
    detail::check(sonew_file_tensor(handle_.get(), tensor, &state, sizeof state));
    return detail::from_c(state);
  }

  /// All tensors, for the constructor of Optimizer.
  std::vector<Tensor> tensors() const {
    std::vector<Tensor> tensors;
    const std::size_t count = tensor_count();
    for (std::size_t i = 0; i < count; i++) tensors.push_back(tensor(i).tensor);
    return tensors;
  }

  /// Copies an array of a tensor, one of TensorState::arrays, to a buffer of its
  /// length and type, and compares its checksum, if it has one. sonew_file_read().
  void read(std::size_t tensor, const std::string &array, const Buffer &to) const {
    const Tensor described = this->tensor(tensor).tensor;
    const Dtype dtype = array == "parameter" ? described.dtype
                        : array == "master"  ? Dtype::f32
                                             : described.state_dtype;
    detail::Expected(described).fits(to, array.c_str(), dtype);
    detail::check(
        sonew_file_read(handle_.get(), tensor, detail::c_string(array, "array"), to.data()));
  }

 private:
  sonew_contents info() const {
    sonew_contents contents;
    detail::check(sonew_file_info(handle_.get(), &contents, sizeof contents));
    return contents;
  }

  detail::Handle<sonew_file, sonew_file_free> handle_;
};

/// Checks a whole file: its header, its sizes, and every checksum.
/// sonew_verify().
inline void verify(const std::string &path) {
  detail::check(sonew_verify(detail::c_string(path, "path")));
}

// ---------------------------------------------------------------------------
// Stateless step

/// The buffers of one tensor for one stateless step: sonew_buffers. Set either
/// params, which are updated, or direction, into which the direction is written.
/// Without grad the tensor takes no part in the step.
struct TensorBuffers {
  Buffer params = {};
  Buffer direction = {};
  ConstBuffer grad = {};
  /// The state planes, in the order of Plan::plane_name(). Before the first step
  /// "master" is a copy of the parameters, and all others are zero.
  Buffers planes = {};
  double lr_scale = 1;
  double weight_decay = 0;
  /// The number of the tensor's own step, if it is not that of the call.
  std::uint64_t step_number = 0;
  /// The numbers of the tensor's state, zero before its first step: needed with
  /// lagged_norms, and for steps with betas of their own.
  std::array<double, SONEW_SCALARS> *scalars = nullptr;
};

/// A step over buffers that all belong to the caller: sonew_plan.
class Plan {
 public:
  /// Creates a plan. sonew_plan_create().
  explicit Plan(const std::vector<Tensor> &tensors, const Options &options = {})
      : tensors_(detail::expected(tensors)) {
    const sonew_options c = detail::to_c(options);
    const std::vector<sonew_tensor> list = detail::to_c(tensors);
    detail::check(sonew_plan_create(&c, list.data(), list.size(), handle_.out()));
  }
  Plan(Plan &&) noexcept = default;
  Plan &operator=(Plan &&other) noexcept {
    if (this != &other) {
      tensors_ = std::move(other.tensors_);
      handle_ = std::move(other.handle_);
    }
    return *this;
  }

  /// The number of state planes that a tensor needs.
  std::size_t plane_count(std::size_t tensor) const {
    return detail::query<std::size_t>(sonew_plan_plane_count, get(), tensor);
  }

  /// The name of a state plane that a tensor needs.
  std::string plane_name(std::size_t tensor, std::size_t plane) const {
    return detail::query<const char *>(sonew_plan_plane_name, get(), tensor, plane);
  }

  /// The type of a state plane that a tensor needs.
  Dtype plane_dtype(std::size_t tensor, std::size_t plane) const {
    return static_cast<Dtype>(
        detail::query<std::int32_t>(sonew_plan_plane_dtype, get(), tensor, plane));
  }

  /// Takes one step. number is the t of the bias correction, 1 for the first
  /// step. buffers has one entry for each tensor. sonew_plan_step().
  void step(std::uint64_t number, const std::vector<TensorBuffers> &buffers,
            const StepOptions &options = {}) {
    detail::check(step_status(number, buffers, options));
  }

  /// As step(), but returns false if the step was skipped because of a gradient
  /// that is not finite.
  [[nodiscard]] bool try_step(std::uint64_t number, const std::vector<TensorBuffers> &buffers,
                              const StepOptions &options = {}) {
    const sonew_status status = step_status(number, buffers, options);
    if (status != SONEW_NON_FINITE_GRADIENT) detail::check(status);
    return status == SONEW_OK;
  }

  /// Begins a step in stages. sonew_plan_stages_begin().
  [[nodiscard]] Stages stages(std::uint64_t number, const std::vector<TensorBuffers> &buffers,
                              const StepOptions &options = {}) {
    detail::not_moved_from(get(), "plan");
    Stages stages(tensors_.size());
    detail::check(call(buffers, options, [&](const auto &c, const auto &list) {
      return sonew_plan_stages_begin(get(), &c, number, list.data(), list.size());
    }));
    stages.plan_ = get();
    return stages;
  }

  /// The handle, for functions of sonew.h; this object still owns it.
  sonew_plan *get() const noexcept { return handle_.get(); }

 private:
  sonew_status step_status(std::uint64_t number, const std::vector<TensorBuffers> &buffers,
                           const StepOptions &options) {
    return call(buffers, options, [&](const auto &c, const auto &list) {
      return sonew_plan_step(get(), &c, number, list.data(), list.size());
    });
  }

  /// Compares buffers with their tensors and calls a function with them.
  template <class F>
  sonew_status call(const std::vector<TensorBuffers> &buffers, const StepOptions &options,
                    F function) {
    detail::not_moved_from(get(), "plan");
    const sonew_step_options c = detail::to_c(options);
    detail::check_count("buffers", buffers.size(), tensors_.size());
    std::vector<std::vector<void *>> planes(buffers.size());
    std::vector<sonew_buffers> list;
    list.reserve(buffers.size());
    for (std::size_t i = 0; i < buffers.size(); i++) {
      const TensorBuffers &from = buffers[i];
      const detail::Expected &tensor = tensors_[i];
      tensor.fits(from.params, "the parameter", tensor.dtype);
      tensor.fits(from.direction, "the direction", tensor.dtype);
      tensor.fits(from.grad, "the gradient", tensor.grad_dtype);
      for (std::size_t p = 0; p < from.planes.size(); p++) {
        if (p < plane_count(i))
          tensor.fits(from.planes[p], plane_name(i, p).c_str(), plane_dtype(i, p));
        planes[i].push_back(from.planes[p].data());
      }
      sonew_buffers to = detail::defaults(sonew_buffers_init);
      to.params = from.params.data();
      to.direction = from.direction.data();
      to.grad = from.grad.data();
      to.planes = planes[i].data();
      to.plane_count = planes[i].size();
      to.len = tensor.size;
      to.lr_scale = from.lr_scale;
      to.weight_decay = from.weight_decay;
      to.step_number = from.step_number;
      if (from.scalars) to.scalars = from.scalars->data();
      list.push_back(to);
    }
    return function(c, list);
  }

  std::vector<detail::Expected> tensors_;
  detail::Handle<sonew_plan, sonew_plan_free> handle_;
};

// ---------------------------------------------------------------------------
// Version

/// The version of the library in use, as in "0.1.0".
inline std::string version() { return sonew_version(); }

/// The version of the library in use as one number, to be compared with
/// SONEW_VERSION_NUMBER, which is that of the header.
inline std::uint32_t version_number() noexcept { return sonew_version_number(); }

}  // namespace sonew

#endif  // SONEW_HPP
