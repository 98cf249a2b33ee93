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
// - A buffer is any object whose elements, of float, double or a 16-bit type, are known
//   to lie one after the other: std::vector, std::array, std::span and other contiguous
//   ranges, arrays of any number of dimensions, a single number, matrices and vectors of
//   Eigen and Armadillo, and columns of Eigen's; or a pointer and a length, as of a column
//   of Armadillo's. What is not one contiguous run does not compile: a block or a transpose
//   of a matrix, std::deque. Nor does a pointer alone, which does not know its length.
//   Buffers are passed by reference and never copied; their lengths and types
//   are compared with those of the tensors. An object that owns its elements and is a
//   temporary does not compile where elements are written.
// - Matrices of Eigen and Armadillo store their first index fastest, and the last
//   dimension of a tensor is the fastest one: a matrix of `out` rows and `in` columns is
//   the tensor {in, out}, with Chains::strided.
// - Options, and the other structs of a call, are those of sonew.h with the same
//   fields, and are made with the defaults. What a call tells is a struct of sonew.h.
// - Optimizers, plans, pools, files, saves and steps in stages can be moved but not copied. An
//   object that was moved from can only be destroyed or assigned to; any other
//   use throws SONEW_NULL_POINTER.
// - Different objects may be used by different threads at once. Of two threads
//   that use one object, the second gets an error with SONEW_BUSY.
#ifndef SONEW_HPP
#define SONEW_HPP

#if __cplusplus < 201703L
#error "sonew.hpp needs C++17 (-std=c++17) or newer; older C++ uses the C API, sonew.h."
#elif !defined(__cpp_exceptions)
#error "sonew.hpp needs exceptions; a program without them (-fno-exceptions) uses the C API, sonew.h."
#else

#include <sonew.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if __has_include(<version>)
#include <version>
#endif
#if __cplusplus > 202002L && __has_include(<stdfloat>)
#include <stdfloat>
#endif
#ifdef __cpp_lib_span
#include <span>
#endif
#ifdef __cpp_lib_ranges
#include <ranges>
#endif

namespace sonew {

// ---------------------------------------------------------------------------
// Errors

/// Why a call was refused. what() is the message, status() the number, and
/// status_name() its name, such as "SONEW_OUT_OF_RANGE". The call has changed
/// nothing.
///
/// What sonew.h cannot check is checked here. A buffer or view whose elements have
/// another type than they must have is SONEW_DTYPE_DIFFERS, a buffer of another length
/// SONEW_WRONG_LENGTH, an object that was moved from SONEW_NULL_POINTER, a string with a
/// NUL in it SONEW_INVALID_STRING; a name that is not there is SONEW_UNKNOWN_TENSOR or
/// SONEW_UNKNOWN_PLANE.
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

/// False if a step was skipped.
inline bool check_step(sonew_status status) {
  if (status == SONEW_NON_FINITE_GRADIENT) return false;
  check(status);
  return true;
}

/// A string for C. Refuses one that contains a NUL, where C would see its end.
inline const char *c_string(const std::string &text, const char *argument) {
  if (text.find('\0') != std::string::npos)
    throw error(SONEW_INVALID_STRING, std::string(argument) + " has a NUL in it");
  return text.c_str();
}

/// The struct that a function fills in, or one that adds nothing but member functions to
/// it: its address and its size are the last two arguments.
template <class T, class F, class... A>
T ask(F function, A... arguments) {
  T value{};
  check(function(arguments..., &value, sizeof value));
  return value;
}

/// A handle that is freed exactly once. Its name is that of the argument in sonew.h.
template <class T, sonew_status (*Free)(T *)>
class Handle {
 public:
  explicit Handle(const char *name) noexcept : name_(name) {}
  Handle(Handle &&other) noexcept
      : name_(other.name_), handle_(std::exchange(other.handle_, nullptr)) {}
  Handle &operator=(Handle &&other) noexcept {
    Handle taken(std::move(other));
    std::swap(handle_, taken.handle_);
    return *this;
  }
  ~Handle() { Free(handle_); }

  T *get() const {
    if (!handle_)
      throw error(SONEW_NULL_POINTER, std::string(name_) + " is null: it was moved from");
    return handle_;
  }
  T **out() noexcept { return &handle_; }

 private:
  const char *name_;
  T *handle_ = nullptr;
};

}  // namespace detail

// ---------------------------------------------------------------------------
// Element types and buffers

/// The types of elements, for the fields of Tensor: sonew_dtype.
struct Dtype {
  static constexpr sonew_dtype by_default = SONEW_DTYPE_DEFAULT;
  static constexpr sonew_dtype f32 = SONEW_F32;    // float
  static constexpr sonew_dtype f64 = SONEW_F64;    // double
  static constexpr sonew_dtype bf16 = SONEW_BF16;  // bfloat16: the upper half of a float
  static constexpr sonew_dtype f16 = SONEW_F16;    // IEEE 754 binary16
};

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
template <sonew_dtype D>
struct is {
  static constexpr sonew_dtype value = D;
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

/// A reference to contiguous elements, like std::span of C++20, to which it converts.
template <class T>
class Span {
 public:
  using element_type = T;

  constexpr Span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}

  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr T *begin() const noexcept { return data_; }
  constexpr T *end() const noexcept { return data_ + size_; }
  constexpr T &operator[](std::size_t i) const { return data_[i]; }
#ifdef __cpp_lib_span
  constexpr operator std::span<T>() const noexcept { return {data_, size_}; }
#endif

 private:
  T *data_;
  std::size_t size_;
};

namespace detail {

template <class T, class = void>
struct is_element : std::false_type {};
template <class T>
struct is_element<T, std::void_t<decltype(dtype_of<std::remove_cv_t<T>>::value)>>
    : std::true_type {};

/// The element type of T, checked against its size.
template <class T>
constexpr sonew_dtype element() {
  constexpr sonew_dtype dtype = dtype_of<std::remove_cv_t<T>>::value;
  static_assert(sizeof(T) == (dtype == SONEW_F64 ? 8 : dtype == SONEW_F32 ? 4 : 2) &&
                    std::is_trivially_copyable<T>::value,
                "dtype_of is specialized for a type of another size");
  return dtype;
}

// What is known to be one contiguous run of elements. Of a type with data() and size()
// that says nothing else this is not known: its elements may be strided.

/// The standard's containers, and what says it by its iterators.
template <class T, class A>
std::true_type is_container(const std::vector<T, A> &);
template <class T, std::size_t N>
std::true_type is_container(const std::array<T, N> &);
std::false_type is_container(...);
template <class C, class = void>
struct is_run : std::false_type {};
template <class C>
struct is_run<C, std::void_t<decltype(std::begin(std::declval<C &>())),
                             decltype(std::data(std::declval<C &>())),
                             decltype(std::size(std::declval<C &>()))>>
    : std::bool_constant<std::is_pointer<decltype(std::begin(std::declval<C &>()))>::value ||
#ifdef __cpp_lib_ranges
                         std::ranges::contiguous_range<C &> ||
#endif
                         decltype(detail::is_container(std::declval<C &>()))::value> {
};

/// Eigen's types, which are known by their constants, and whether they own their elements.
/// Eigen itself is not needed.
template <class C, class = void>
struct is_eigen : std::false_type {};
template <class C>
struct is_eigen<C, std::void_t<typename C::Scalar, decltype(C::InnerStrideAtCompileTime),
                               decltype(C::IsVectorAtCompileTime)>> : std::true_type {};

template <class C>
constexpr bool is_packed();

/// Matrix and Array.
template <template <class, int, int, int, int, int> class M, class T, int R, int C, int O, int MR,
          int MC>
std::true_type is_plain(const M<T, R, C, O, MR, MC> &);
std::false_type is_plain(...);
/// Map and Ref with the strides of a whole matrix, and the columns of one.
template <template <class, int, class> class M, class P, int O, class S>
std::bool_constant<S::OuterStrideAtCompileTime == 0 &&
                   (S::InnerStrideAtCompileTime == 0 || S::InnerStrideAtCompileTime == 1)>
is_whole(const M<P, O, S> &);
template <template <class, int, int, bool> class B, class X, int R, int C, bool InnerPanel>
std::bool_constant<InnerPanel && is_packed<std::remove_cv_t<X>>()> is_whole(
    const B<X, R, C, InnerPanel> &);
/// `w.array()` and `w.matrix()`, which show what another object has. (Diagonals, which some
/// compilers take for such a W as well, do not nest an expression.)
template <template <class> class W, class X, class = typename W<X>::NestedExpressionType>
std::bool_constant<is_packed<std::remove_cv_t<X>>()> is_whole(const W<X> &);
std::false_type is_whole(...);

/// Whether a type of Eigen is one run: all of these, and vectors with a stride of 1.
template <class C>
constexpr bool is_packed() {
  return decltype(detail::is_plain(std::declval<C &>()))::value ||
         decltype(detail::is_whole(std::declval<C &>()))::value ||
         (C::IsVectorAtCompileTime && C::InnerStrideAtCompileTime == 1);
}

template <class C, class = void>
struct has_data : std::false_type {};
template <class C>
struct has_data<C, std::void_t<decltype(std::declval<C &>().data())>> : std::true_type {};
/// Armadillo's matrices.
template <class C, class = void>
struct has_memptr : std::false_type {};
template <class C>
struct has_memptr<C, std::void_t<decltype(std::declval<C &>().memptr()),
                                 decltype(std::declval<C &>().n_elem)>> : std::true_type {};

/// Whether a T can only be a single number, and not something that holds some.
template <class T>
constexpr bool is_single = is_element<T>::value || (!std::is_class<T>::value &&
                                                    !std::is_array<T>::value);

/// A pointer to the first element; nullptr_t if they are not known to be one run. Their
/// type may be one that has no dtype.
template <class C>
constexpr auto first(C &from) {
  if constexpr (is_single<C>) {
    return &from;
  } else if constexpr (std::is_array<C>::value) {
    if constexpr (is_single<std::remove_all_extents_t<C>>)
      return detail::first(from[0]);
    else
      return nullptr;
  } else if constexpr (is_eigen<C>::value) {
    if constexpr (has_data<C>::value && is_packed<std::remove_cv_t<C>>())
      return from.data();
    else
      return nullptr;
  } else if constexpr (has_memptr<C>::value) {
    return from.memptr();
  } else if constexpr (is_run<C>::value) {
    return std::data(from);
  } else {
    return nullptr;
  }
}

/// How many there are, of what has a first one.
template <class C>
constexpr std::size_t count(const C &from) {
  if constexpr (is_single<C>)
    return 1;
  else if constexpr (std::is_array<C>::value)
    return std::extent<C>::value * detail::count(from[0]);
  else if constexpr (has_memptr<C>::value)
    return static_cast<std::size_t>(from.n_elem);
  else
    return static_cast<std::size_t>(std::size(from));
}

/// The elements' type, const if they are; nullptr_t if they are not known to be one run.
template <class C>
using element_of = std::remove_pointer_t<decltype(detail::first(std::declval<C &>()))>;

/// Whether elements end with their object: then they are const if it is. Those of a view
/// do not depend on it.
template <class C>
constexpr bool owns() {
  if constexpr (is_eigen<C>::value)
    return decltype(detail::is_plain(std::declval<C &>()))::value;
  else
    return !std::is_same<element_of<std::remove_const_t<C>>, element_of<const C>>::value;
}

}  // namespace detail

template <class V, bool Lasting>
class BasicBuffer;
template <class V, bool Lasting>
class List;

namespace detail {

/// The types that are buffers already, or none.
template <class T>
struct is_own : std::is_same<T, std::nullptr_t> {};
template <class V, bool Lasting>
struct is_own<BasicBuffer<V, Lasting>> : std::true_type {};
template <class V, bool Lasting>
struct is_own<List<V, Lasting>> : std::true_type {};

/// What `*begin` of an R gives.
template <class R, class = void>
struct item_of {
  using type = void;
};
template <class R>
struct item_of<R, std::void_t<decltype(*std::begin(std::declval<R &>()))>> {
  using type = decltype(*std::begin(std::declval<R &>()));
};

/// Whether something is a buffer, or why not.
enum class Fit { yes, scattered, no_length, no_elements, constant, temporary, no_list };

template <class R, class V, bool Lasting>
constexpr Fit list_fit();

/// Whether a C, an lvalue if it is a reference, is a buffer of elements to which a V may
/// point. Lasting: it is used after the call that it is passed to.
template <class C, class V, bool Lasting>
constexpr Fit fit() {
  using T = std::remove_reference_t<C>;
  using E = element_of<T>;
  if constexpr (!is_element<E>::value) {
    constexpr Fit items = list_fit<C, V, Lasting>();
    if (items != Fit::no_list) return items;
    if (std::is_pointer<E>::value) return Fit::no_length;
    return std::is_same<E, std::nullptr_t>::value ? Fit::scattered : Fit::no_elements;
  } else if constexpr (Lasting && !std::is_reference<C>::value && owns<T>()) {
    return Fit::temporary;
  } else {
    return std::is_convertible<E *, V *>::value ? Fit::yes : Fit::constant;
  }
}

/// The same of the items of an R, if it is a list. One of numbers is none: they are
/// elements.
template <class R, class V, bool Lasting>
constexpr Fit list_fit() {
  using T = std::remove_reference_t<R>;
  using I = typename item_of<T>::type;
  using item = std::remove_cv_t<std::remove_reference_t<I>>;
  if constexpr (std::is_void<I>::value || is_single<item> || is_single<std::remove_all_extents_t<T>>) {
    return Fit::no_list;
  } else if constexpr (is_own<item>::value) {
    return std::is_convertible<I, BasicBuffer<V, Lasting>>::value ? Fit::yes : Fit::constant;
  } else {
    // Items end with a temporary list if they are const when it is; those that are made
    // by an iterator end even before the call.
    constexpr bool end_with_it =
        !std::is_reference<R>::value && !std::is_same<typename item_of<std::remove_const_t<T>>::type,
                                                      typename item_of<const T>::type>::value;
    return fit<std::conditional_t<end_with_it, item, I>, V,
               Lasting || !std::is_reference<I>::value>();
  }
}

template <class R, class V, bool Lasting>
constexpr bool is_list = list_fit<R, V, Lasting>() == Fit::yes;

/// What holds numbers of whatever kind, as far as its type tells.
template <class C, class = void>
struct has_scalars : std::false_type {};
template <class C>
struct has_scalars<C, std::void_t<typename C::Scalar>> : std::true_type {};
template <class C, class = void>
struct has_elem_type : std::false_type {};
template <class C>
struct has_elem_type<C, std::void_t<typename C::elem_type>> : std::true_type {};

/// Whether a buffer is to take a C or to say why it does not: what holds numbers or points
/// to them, and is no list.
template <class C, class V, bool Lasting>
constexpr bool is_for() {
  using T = std::remove_reference_t<C>;
  if constexpr (is_own<std::remove_cv_t<T>>::value)
    return false;
  else if constexpr (is_element<T>::value)
    return true;
  else
    return (std::is_pointer<T>::value || std::is_array<T>::value || has_data<T>::value || has_memptr<T>::value ||
            has_scalars<T>::value || has_elem_type<T>::value ||
            !std::is_void<typename item_of<T>::type>::value) &&
           !is_list<C, V, Lasting>;
}

}  // namespace detail

/// Elements that a call uses: constructed from what is one contiguous run of them, see
/// above, or from a pointer and a length. It refers to the elements and does
/// not own them. nullptr means no buffer. V is void or const void. Lasting: elements that
/// are written, or used after the call, so that a temporary must not own them.
template <class V, bool Lasting>
class BasicBuffer {
 public:
  constexpr BasicBuffer(std::nullptr_t = nullptr) noexcept {}
  template <class T, class Size,
            std::enable_if_t<detail::is_element<T>::value && std::is_convertible<T *, V *>::value &&
                                 std::is_convertible<Size, std::size_t>::value,
                             int> = 0>
  constexpr BasicBuffer(T *data, Size size) noexcept
      : data_(data), size_(static_cast<std::size_t>(size)), dtype_(detail::element<T>()) {}
  template <class C, std::enable_if_t<detail::is_for<C, V, Lasting>(), int> = 0>
  constexpr BasicBuffer(C &&from) {
    constexpr detail::Fit fit = detail::fit<C, V, Lasting>();
    static_assert(fit != detail::Fit::scattered,
                  "sonew: this is not known to be one contiguous run of elements; pass a copy that "
                  "is, or, if they do lie one after the other, a pointer and a length.");
    static_assert(fit != detail::Fit::no_length,
                  "sonew: a pointer does not know how many numbers there are; pass it with a "
                  "length, {pointer, length}.");
    static_assert(fit != detail::Fit::no_elements,
                  "sonew: elements are float, double, sonew::bf16, sonew::f16, or of a type for "
                  "which sonew::dtype_of is specialized.");
    static_assert(fit != detail::Fit::constant, "sonew: these elements are written, but const.");
    static_assert(fit != detail::Fit::temporary,
                  "sonew: this temporary ends, and its elements with it, before they are used; "
                  "give it a name.");
    if constexpr (fit == detail::Fit::yes)
      *this = BasicBuffer(detail::first(from), detail::count(from));
  }
  template <class W, bool L,
            std::enable_if_t<std::is_convertible<W *, V *>::value &&
                                 !std::is_same<BasicBuffer<W, L>, BasicBuffer>::value,
                             int> = 0>
  constexpr BasicBuffer(const BasicBuffer<W, L> &other) noexcept
      : data_(other.data()), size_(other.size()), dtype_(other.dtype()) {}

  constexpr V *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr sonew_dtype dtype() const noexcept { return dtype_; }
  constexpr explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  friend class Optimizer;
  /// Elements of a type that is known at run time.
  constexpr BasicBuffer(V *data, std::size_t size, sonew_dtype dtype) noexcept
      : data_(data), size_(size), dtype_(dtype) {}

  V *data_ = nullptr;
  std::size_t size_ = 0;
  sonew_dtype dtype_ = Dtype::by_default;
};

/// Elements that a call may write.
using Buffer = BasicBuffer<void, true>;
/// Elements that a call only reads.
using ConstBuffer = BasicBuffer<const void, false>;
/// Elements that are only read, also after the call, as those of a step in stages.
using LastingBuffer = BasicBuffer<const void, true>;

/// One buffer for each tensor, in the order of the tensors: a list in braces,
/// `{weight, bias}`; a container of buffers, or of containers; or, for a single
/// tensor, anything that a buffer can be constructed from.
template <class V, bool Lasting>
class List {
  using B = BasicBuffer<V, Lasting>;

 public:
  List() = default;
  List(std::initializer_list<B> buffers) : buffers_(buffers) {}
  template <class R, std::enable_if_t<
                         !std::is_same<std::remove_cv_t<std::remove_reference_t<R>>, List>::value &&
                             (std::is_convertible<R, B>::value || detail::is_list<R, V, Lasting>),
                         int> = 0>
  List(R &&list) {
    if constexpr (detail::is_list<R, V, Lasting>)
      for (auto &&buffer : list) buffers_.push_back(buffer);
    else
      buffers_.push_back(std::forward<R>(list));
  }

  std::size_t size() const noexcept { return buffers_.size(); }
  bool empty() const noexcept { return buffers_.empty(); }
  const B &operator[](std::size_t i) const { return buffers_[i]; }

 private:
  std::vector<B> buffers_;
};

/// Buffers that a call may write, one for each tensor.
using Buffers = List<void, true>;
/// Buffers that a call only reads, one for each tensor.
using ConstBuffers = List<const void, false>;
/// Buffers that are only read, also after the call, one for each tensor.
using LastingBuffers = List<const void, true>;

// ---------------------------------------------------------------------------
// Options and tensors

/// Values of Options::statistics, how gradients enter the diagonal and the
/// sub-diagonals: sonew_statistics.
struct Statistics {
  static constexpr sonew_statistics moving_average = SONEW_MOVING_AVERAGE;
  static constexpr sonew_statistics weighted_sum = SONEW_WEIGHTED_SUM;
};

/// Values of Options::damping, what is added to the diagonal before it is inverted:
/// sonew_damping.
struct Damping {
  static constexpr sonew_damping absolute = SONEW_ABSOLUTE;
  static constexpr sonew_damping relative = SONEW_RELATIVE;
  static constexpr sonew_damping relative_lagged = SONEW_RELATIVE_LAGGED;
};

/// Values of Options::graft, the method whose norm the update takes: sonew_graft.
struct Graft {
  static constexpr sonew_graft none = SONEW_GRAFT_NONE;
  static constexpr sonew_graft sgd = SONEW_GRAFT_SGD;
  static constexpr sonew_graft momentum = SONEW_GRAFT_MOMENTUM;
  static constexpr sonew_graft adam = SONEW_GRAFT_ADAM;
  static constexpr sonew_graft normalized_rmsprop = SONEW_GRAFT_NORMALIZED_RMSPROP;
};

/// Values of Options::pooling, whether the chains of a tensor share their correlations:
/// sonew_pooling.
struct Pooling {
  static constexpr sonew_pooling none = SONEW_POOLING_NONE;
  static constexpr sonew_pooling band = SONEW_POOLING_BAND;
  static constexpr sonew_pooling rank = SONEW_POOLING_RANK;
  static constexpr sonew_pooling all = SONEW_POOLING_ALL;
};

/// Values of Options::rounding, how numbers are rounded to 16 bits: sonew_rounding.
struct Rounding {
  static constexpr sonew_rounding nearest = SONEW_NEAREST;
  static constexpr sonew_rounding stochastic = SONEW_STOCHASTIC;
};

/// Values of Options::instruction_set: sonew_isa.
struct Isa {
  static constexpr sonew_isa automatic = SONEW_ISA_AUTO;
  static constexpr sonew_isa portable = SONEW_ISA_PORTABLE;
  static constexpr sonew_isa avx2 = SONEW_ISA_AVX2;
  static constexpr sonew_isa avx512 = SONEW_ISA_AVX512;
  static constexpr sonew_isa neon = SONEW_ISA_NEON;
};

/// Values of Tensor::chains, which coordinates are neighbours: sonew_chains. Those of a
/// matrix of Eigen or Armadillo that is used as W * x are strided.
struct Chains {
  static constexpr sonew_chains contiguous = SONEW_CONTIGUOUS;
  static constexpr sonew_chains strided = SONEW_STRIDED;
  static constexpr sonew_chains contiguous_lines = SONEW_CONTIGUOUS_LINES;
  static constexpr sonew_chains strided_lines = SONEW_STRIDED_LINES;
};

/// Values of Tensor::update, how a tensor is updated: sonew_update.
struct Update {
  static constexpr sonew_update sonew = SONEW_UPDATE_SONEW;
  static constexpr sonew_update adam = SONEW_UPDATE_ADAM;
};

/// Values of StepOptions::non_finite, what a step does about gradients that are not
/// finite: sonew_non_finite.
struct NonFinite {
  static constexpr sonew_non_finite skip = SONEW_SKIP;
  static constexpr sonew_non_finite unchecked = SONEW_UNCHECKED;
};

/// Values of LoadOptions::mode, how a file is opened: sonew_load_mode.
struct LoadMode {
  static constexpr sonew_load_mode read = SONEW_READ;
  static constexpr sonew_load_mode map_private = SONEW_MAP_PRIVATE;
  static constexpr sonew_load_mode map_shared = SONEW_MAP_SHARED;
};

/// The options of an optimizer: the fields of sonew_options, with their defaults.
///
///     sonew::Options options;
///     options.band = 4;
///     options.graft = sonew::Graft::sgd;
///     options.pool = pool.get();  // of a sonew::Pool
struct Options : sonew_options {
  Options() { detail::check(sonew_options_init(this, sizeof(sonew_options))); }
  /// A copy of those that the library tells, which may be of another version.
  explicit Options(const sonew_options &other) : Options() {
    std::memcpy(static_cast<sonew_options *>(this), &other,
                std::min(other.struct_size, sizeof(sonew_options)));
    struct_size = sizeof(sonew_options);
  }
};

/// The options of one step: the fields of sonew_step_options, with their defaults.
struct StepOptions : sonew_step_options {
  StepOptions() { detail::check(sonew_step_options_init(this, sizeof(sonew_step_options))); }
};

/// Which differences between file and optimizer a load accepts, by default none, and how
/// the file is opened: the fields of sonew_load_options, but for rename_count and
/// path_count, which are the lengths of renames and paths.
struct LoadOptions : sonew_load_options {
  LoadOptions() { detail::check(sonew_load_options_init(this, sizeof(sonew_load_options))); }

  /// Tensors whose names differ: (name in the file, name in the optimizer).
  std::vector<std::pair<std::string, std::string>> renames;

  /// Further files that, together with the path of the call, hold the tensors: those that
  /// several machines have saved, each with its tensors or its rows of them
  /// (Tensor::first_row). By default none.
  std::vector<std::string> paths;

  /// Settings of which the optimizer keeps its own where the file has others, as in
  /// `{"beta1", "weight_decay"}`: sonew_load_options.overrides. By default none.
  std::vector<std::string> overrides;
};

namespace detail {

/// A dimension, of whatever integer type; one that is negative is refused.
struct Dim {
  std::size_t size;

  template <class I, std::enable_if_t<std::is_convertible<I, std::size_t>::value &&
                                          !std::is_floating_point<I>::value,
                                      int> = 0>
  Dim(I value) : size(static_cast<std::size_t>(value)) {
    if constexpr (std::is_signed<I>::value)
      if (value < 0)
        throw error(SONEW_OUT_OF_RANGE,
                    "a dimension is " + std::to_string(value) + ", must not be negative");
  }
};

/// For containers of dimensions.
template <class C>
using if_dims = std::enable_if_t<
    std::is_convertible<decltype(*std::begin(std::declval<const C &>())), Dim>::value &&
        !std::is_convertible<const C &, std::string>::value,
    int>;

}  // namespace detail

/// The dimensions of a tensor, slowest first: integers of any type, in braces or in a
/// container. One that is negative is SONEW_OUT_OF_RANGE.
class Dims : public std::vector<std::size_t> {
 public:
  Dims() = default;
  Dims(std::initializer_list<detail::Dim> dims) { append(dims); }
  template <class C, detail::if_dims<C> = 0>
  Dims(const C &dims) {
    append(dims);
  }

 private:
  template <class C>
  void append(const C &dims) {
    for (const detail::Dim dim : dims) push_back(dim.size);
  }
};

/// One parameter tensor: contiguous, its last dimension fastest. Name and
/// dimensions are enough, as in `{"fc1.weight", {1000, 784}}`; a scalar has no
/// dimensions. The other fields are those of sonew_tensor, with their defaults, but for
/// ndim, which is the length of dims. With whole_rows set it is a shard, the rows from
/// first_row on of a larger tensor.
struct Tensor : sonew_tensor {
  Tensor(std::string name, Dims dims = {});
  explicit Tensor(const sonew_tensor &tensor);

  std::string name;
  Dims dims;
  /// Options of its own, as a group of parameters has them: a copy of the optimizer's with
  /// another band or rank, other betas, eps, gamma, shrink, graft_eps or weight_decay.
  std::optional<Options> options;
};

inline Tensor::Tensor(std::string the_name, Dims the_dims)
    : name(std::move(the_name)), dims(std::move(the_dims)) {
  detail::check(sonew_tensors_init(this, 1, sizeof(sonew_tensor)));
}

inline Tensor::Tensor(const sonew_tensor &tensor) : sonew_tensor(tensor), name(tensor.name) {
  dims.assign(tensor.dims, tensor.dims + tensor.ndim);
  if (tensor.options != nullptr) options.emplace(*tensor.options);
  // Those of C live no longer than what was asked.
  sonew_tensor::name = nullptr;
  sonew_tensor::options = nullptr;
}

/// The name, type and length of a state plane, or of another array of a file.
struct Plane {
  std::string name;
  /// One of sonew_dtype.
  sonew_dtype dtype;
  /// Its number of elements.
  std::size_t len;
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

  /// The handle, for Options::pool; this object still owns it.
  sonew_pool *get() const { return handle_.get(); }

 private:
  detail::Handle<sonew_pool, sonew_pool_free> handle_{"pool"};
};

namespace detail {

inline std::vector<sonew_tensor> to_c(const std::vector<Tensor> &tensors) {
  std::vector<sonew_tensor> list(tensors.begin(), tensors.end());
  for (std::size_t i = 0; i < list.size(); i++) {
    const Dims &dims = tensors[i].dims;
    list[i].name = c_string(tensors[i].name, "a tensor's name");
    list[i].options = tensors[i].options ? &*tensors[i].options : nullptr;
    list[i].ndim = dims.size();  // The library refuses a number that is too large.
    std::fill(std::begin(list[i].dims), std::end(list[i].dims), std::size_t{0});
    std::copy_n(dims.begin(), std::min<std::size_t>(dims.size(), SONEW_MAX_DIMS), list[i].dims);
  }
  return list;
}

inline std::vector<Plane> from_c(const sonew_planes &c) {
  std::vector<Plane> planes;
  for (std::size_t i = 0; i < c.count; i++) planes.push_back({c.names[i], c.dtypes[i], c.lens[i]});
  return planes;
}

inline std::string name_of(sonew_dtype dtype) {
  const char *const names[] = {"the default", "F32", "F64", "BF16", "F16"};
  const auto i = static_cast<std::size_t>(dtype);
  return i < std::size(names) ? names[i] : std::to_string(dtype);
}

/// Refuses elements of another type. what is, for example, "the gradient".
inline void check_dtype(const std::string &tensor, const char *what, sonew_dtype dtype,
                        sonew_dtype expected) {
  if (dtype != expected)
    throw error(SONEW_DTYPE_DIFFERS, "tensor \"" + tensor + "\": " + what + " has type " +
                                         name_of(dtype) + ", expected " + name_of(expected));
}

inline void check_count(const char *argument, std::size_t count, std::size_t expected) {
  if (count != expected)
    throw error(SONEW_TENSOR_COUNT, std::string(argument) + " has " + std::to_string(count) +
                                        " tensors, expected " + std::to_string(expected));
}

/// The length and the types that buffers of a tensor must have.
struct Expected {
  std::string name;
  std::size_t size = 1;
  sonew_dtype dtype, grad_dtype;
  /// What is computed in.
  sonew_dtype arithmetic;

  /// For a tensor that the library has accepted.
  explicit Expected(const Tensor &t)
      : name(t.name),
        dtype(t.dtype == Dtype::by_default ? Dtype::f32 : t.dtype),
        grad_dtype(t.grad_dtype == Dtype::by_default ? dtype : t.grad_dtype),
        arithmetic(dtype == Dtype::f64 || t.state_dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32) {
    for (std::size_t dim : t.dims) size *= dim;
  }

  void fits(const ConstBuffer &buffer, const char *what, sonew_dtype expected) const {
    fits(buffer, what, expected, size);
  }

  void fits(const ConstBuffer &buffer, const char *what, sonew_dtype expected,
            std::size_t len) const {
    if (!buffer) return;
    check_dtype(name, what, buffer.dtype(), expected);
    if (buffer.size() != len)
      throw error(SONEW_WRONG_LENGTH, "tensor \"" + name + "\": " + what + " has " +
                                          std::to_string(buffer.size()) + " elements, expected " +
                                          std::to_string(len));
  }
};

using Tensors = std::vector<Expected>;

/// Pointers to buffers that were compared with their tensors.
template <class V, bool Lasting>
std::vector<void *> pointers(const Tensors &tensors, const List<V, Lasting> &buffers, const char *argument,
                             const char *what, sonew_dtype Expected::*dtype) {
  check_count(argument, buffers.size(), tensors.size());
  std::vector<void *> pointers;
  pointers.reserve(buffers.size());
  for (std::size_t i = 0; i < buffers.size(); i++) {
    tensors[i].fits(buffers[i], what, tensors[i].*dtype);
    pointers.push_back(const_cast<void *>(static_cast<const void *>(buffers[i].data())));
  }
  return pointers;
}

template <class V, bool Lasting>
std::vector<void *> parameters(const Tensors &tensors, const List<V, Lasting> &params) {
  return pointers(tensors, params, "params", "the parameter", &Expected::dtype);
}

}  // namespace detail

/// How many rows of a tensor belong together, so that machines which cut it between rows whose
/// numbers are multiples of this have the blocks of the whole tensor: Stages::combine(). The
/// number of all rows if there is no such cut. sonew_block_rows().
inline std::size_t block_rows(const Tensor &tensor, const Options &options = {}) {
  const std::vector<Tensor> tensors{tensor};
  std::size_t rows = 0;
  detail::check(sonew_block_rows(&options, detail::to_c(tensors).data(), &rows));
  return rows;
}

// ---------------------------------------------------------------------------
// Optimizer

/// A view of a state plane, not a copy: the fields of sonew_view. It is valid until the
/// next call that steps, loads into or destroys the optimizer: request a new one then.
class View : public sonew_view {
 public:
  /// The elements. Throws SONEW_DTYPE_DIFFERS if they are of another type.
  template <class T>
  Span<const T> as() const {
    detail::check_dtype(tensor, plane, dtype, detail::element<T>());
    return {static_cast<const T *>(data), len};
  }
};

/// A save in the background: sonew_saving. Its destructor waits for the save to end and
/// ignores errors; finish() reports them.
class Saving {
 public:
  /// Waits until the save has ended, and throws an error if it failed. This object can
  /// then only be destroyed or assigned to: another call throws SONEW_BAD_HANDLE.
  void finish() { detail::check(sonew_save_finish(handle_.get())); }

 private:
  friend class Optimizer;
  Saving() = default;
  detail::Handle<sonew_saving, sonew_save_finish> handle_{"saving"};
};

/// The point that a step in stages has reached, and what its numbers are:
/// sonew_stage.
enum class Stage : sonew_stage {
  done = SONEW_DONE,
  /// Sums of squares: reduce with a sum. Nothing has been written yet.
  gradient_squares = SONEW_GRADIENT_SQUARES,
  /// Reduce with a maximum. The state has been updated with the gradients.
  largest_l1 = SONEW_LARGEST_L1,
  /// Squared norms: reduce with a sum. The state has been updated with the
  /// gradients.
  norms = SONEW_NORMS,
};

/// A step that stops where sums or maxima over whole tensors are needed, for
/// programs whose tensors are spread over several machines: sonew_stages. Begun by
/// Optimizer::stages() or Plan::stages().
///
///     auto stages = optimizer.stages({weight, bias}, {weight_grad, bias_grad});
///     for (sonew::Stage stage; (stage = stages.next()) != sonew::Stage::done;)
///       all_reduce(stages.numbers(), stage == sonew::Stage::largest_l1 ? MPI_MAX : MPI_SUM);
///
/// The buffers must stay in place until the step has ended. After that every call but
/// numbers() throws SONEW_BAD_HANDLE.
///
/// Destroying this object, as an exception between two stages does, ends the step, so
/// that the optimizer can be used again: it aborts the step if that is possible, as
/// abort() does. If the state has already been updated with the gradients, and is not in
/// a live file, it finishes the step instead, with the numbers of this part alone,
/// whatever was put in their place.
class Stages {
 public:
  Stages(Stages &&) noexcept = default;
  ~Stages() {
    sonew_stages *stages = *handle_.out();  // Null if it was moved from.
    if (sonew_stages_abort(stages) != SONEW_STATE_WRITTEN) return;
    std::int32_t stage = SONEW_DONE;
    do std::copy(own_.begin(), own_.end(), numbers_.begin());
    while (next(stages, stage) == SONEW_OK && stage != SONEW_DONE);
  }

  /// Continues the step to its next stage, with the numbers as they are now.
  /// sonew_stages_next(). Throws non_finite_gradient if a sum of squares is NaN:
  /// the step has ended and nothing has changed.
  Stage next() {
    std::int32_t stage = SONEW_DONE;
    detail::check(next(handle_.get(), stage));
    return static_cast<Stage>(stage);
  }

  /// The numbers of the stage that was reached, two for each tensor. Reduce them
  /// in place.
  Span<double> numbers() {
    handle_.get();
    return {numbers_.data(), numbers_.size()};
  }

  /// How many blocks each tensor has: those of the whole tensor, if it is a shard. Throws
  /// SONEW_BLOCK_CUT if a shard is not cut between blocks: block_rows().
  /// sonew_stages_blocks().
  std::vector<std::size_t> blocks() const {
    std::vector<std::size_t> blocks(numbers_.size() / 2);
    detail::check(
        sonew_stages_blocks(handle_.get(), blocks.data(), blocks.size(), nullptr, 0));
    return blocks;
  }

  /// The numbers of the stage that was reached, two for each block of all tensors; zeros for
  /// blocks of rows that are not here. sonew_stages_blocks().
  std::vector<double> block_numbers() const {
    std::vector<std::size_t> all = blocks();
    std::vector<double> numbers(2 * std::accumulate(all.begin(), all.end(), std::size_t{0}));
    detail::check(sonew_stages_blocks(handle_.get(), all.data(), all.size(), numbers.data(),
                                      numbers.size()));
    return numbers;
  }

  /// Puts in the place of numbers() what those of blocks give, which have been reduced over
  /// machines: added up in their order or, with Stage::largest_l1, the largest of them. The
  /// bits do not depend on how many machines there are.
  void combine(const std::vector<double> &block_numbers) {
    const std::vector<std::size_t> all = blocks();
    const auto count = std::accumulate(all.begin(), all.end(), std::size_t{0});
    if (block_numbers.size() != 2 * count)
      throw error(SONEW_WRONG_LENGTH, "there are " + std::to_string(block_numbers.size()) +
                                          " numbers of blocks, expected " +
                                          std::to_string(2 * count));
    auto next = block_numbers.begin();
    for (std::size_t i = 0; i < numbers_.size(); i++) numbers_[i] = 0;
    for (std::size_t i = 0; i < all.size(); i++)
      for (std::size_t block = 0; block < all[i]; block++)
        for (std::size_t k = 2 * i; k < 2 * i + 2; k++, ++next)
          numbers_[k] = stage_ == SONEW_LARGEST_L1 ? std::max(numbers_[k], *next)
                                                   : numbers_[k] + *next;
  }

  /// Aborts the step. Throws SONEW_STATE_WRITTEN if the state of an optimizer
  /// has been updated with the gradients and is not in a live file: the step can
  /// then only be finished, by next() or by destroying this object.
  /// sonew_stages_abort().
  void abort() { detail::check(sonew_stages_abort(handle_.get())); }

 private:
  friend class Optimizer;
  friend class Plan;
  // Before the step begins, so that an exception here leaves none under way.
  explicit Stages(std::size_t tensors) : numbers_(2 * tensors), own_(2 * tensors) {}

  sonew_status next(sonew_stages *stages, std::int32_t &stage) noexcept {
    const auto status = sonew_stages_next(stages, numbers_.data(), numbers_.size() / 2, &stage);
    if (status == SONEW_OK) std::copy(numbers_.begin(), numbers_.end(), own_.begin());
    if (status == SONEW_OK) stage_ = stage;
    return status;
  }

  std::vector<double> numbers_;
  std::vector<double> own_;  // The numbers of the last stage, as they came.
  std::int32_t stage_ = SONEW_DONE;
  detail::Handle<sonew_stages, sonew_stages_abort> handle_{"stages"};
};

/// An optimizer that owns the state of a list of tensors: sonew_optimizer.
/// Parameters and gradients stay in the caller's buffers. Indices of tensors count from 0,
/// in the order of the list.
class Optimizer {
 public:
  /// Creates an optimizer with all state zero. sonew_create().
  explicit Optimizer(const std::vector<Tensor> &tensors, const Options &options = {})
      : tensors_(tensors.begin(), tensors.end()) {
    const std::vector<sonew_tensor> list = detail::to_c(tensors);
    detail::check(sonew_create(&options, list.data(), list.size(), handle_.out()));
  }
  /// Creates an optimizer from a file alone, with its options, tensors, state and
  /// step counts. mode is one of LoadMode. sonew_open().
  static Optimizer open(const std::string &path, sonew_load_mode mode = LoadMode::read) {
    Optimizer optimizer;
    detail::check(sonew_open(detail::c_string(path, "path"), mode, optimizer.handle_.out()));
    const std::size_t count = optimizer.info().tensor_count;
    for (std::size_t i = 0; i < count; i++) optimizer.tensors_.emplace_back(optimizer.tensor(i));
    return optimizer;
  }
  Optimizer(Optimizer &&) noexcept = default;
  Optimizer &operator=(Optimizer &&other) noexcept {
    Optimizer taken(std::move(other));
    tensors_.swap(taken.tensors_);
    std::swap(handle_, taken.handle_);
    return *this;
  }

  /// Takes one step: parameters and state are updated from the gradients, and
  /// the step count grows by one. Both lists have one buffer for each tensor; a
  /// gradient may be nullptr: that tensor then takes no part in the step, and its
  /// own step count stays as it is. If all are, the step still counts for the optimizer.
  /// sonew_step().
  ///
  /// Throws non_finite_gradient if the step was skipped because of a gradient
  /// that is not finite, and error for everything else.
  void step(const Buffers &params, const ConstBuffers &grads, const StepOptions &options = {}) {
    detail::check(call(sonew_step, params, grads, options));
  }

  /// As step(), but returns false if the step was skipped because of a gradient
  /// that is not finite.
  [[nodiscard]] bool try_step(const Buffers &params, const ConstBuffers &grads,
                              const StepOptions &options = {}) {
    return detail::check_step(call(sonew_step, params, grads, options));
  }

  /// Begins a step in stages. sonew_stages_begin().
  [[nodiscard]] Stages stages(const Buffers &params, const LastingBuffers &grads,
                              const StepOptions &options = {}) {
    Stages stages(tensors_.size());
    detail::check(call(sonew_stages_begin, params, grads, options, stages.handle_.out()));
    return stages;
  }

  /// Saves the state, and the parameters if they are given. A file at path is
  /// replaced only when the new one is on disk. sonew_save().
  void save(const std::string &path, const ConstBuffers &params = {}) const {
    const auto pointers = optional(params);
    detail::check(sonew_save(get(), detail::c_string(path, "path"), pointers.data(),
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

  /// Loads a file, or with LoadOptions::paths several, and the parameters if buffers for
  /// them are given. sonew_load().
  void load(const std::string &path, const Buffers &params = {}, const LoadOptions &options = {}) {
    load_from(&path, params, options);
  }

  /// Saves what save() saves to memory. In a file it is a checkpoint. sonew_save_to_memory().
  [[nodiscard]] std::vector<unsigned char> save_to_memory(const ConstBuffers &params = {}) const {
    const auto pointers = optional(params);
    const auto save = [&](unsigned char *data, std::size_t capacity, std::size_t *size) {
      detail::check(sonew_save_to_memory(get(), pointers.data(), pointers.size(), data, capacity,
                                         size));
    };
    std::size_t size = 0;
    save(nullptr, 0, &size);
    std::vector<unsigned char> bytes(size);
    save(bytes.data(), bytes.size(), &size);
    return bytes;
  }

  /// Loads what save_to_memory(), or any other save, has written: size bytes from data on.
  void load_from_memory(const void *data, std::size_t size, const Buffers &params = {},
                        LoadOptions options = {}) {
    options.data = data;
    options.size = size;
    load_from(nullptr, params, options);
  }

  /// Keeps a text of the program under a key; every save writes it, and every load replaces
  /// all texts by those of the file. sonew_set_text().
  void set_text(const std::string &key, const std::string &text) {
    detail::check(sonew_set_text(get(), detail::c_string(key, "key"),
                                 detail::c_string(text, "text")));
  }
  /// Removes the text of a key, if there is one.
  void remove_text(const std::string &key) {
    detail::check(sonew_set_text(get(), detail::c_string(key, "key"), nullptr));
  }
  /// The text of a key, if there is one. sonew_get_text().
  std::optional<std::string> text(const std::string &key) const {
    const char *text = nullptr;
    detail::check(sonew_get_text(get(), detail::c_string(key, "key"), &text));
    return text == nullptr ? std::nullopt : std::optional<std::string>(text);
  }

  /// The tensors in one buffer of all parameters, one after the other, or each from its
  /// offset on, in elements; the length must fit. For step(), save() and load():
  ///
  ///     optimizer.step(optimizer.flat_params(all), optimizer.flat_grads(all_grads));
  ///
  /// sonew_flat_pointers().
  std::vector<Buffer> flat_params(const Buffer &all,
                                  const std::vector<std::size_t> &offsets = {}) const {
    std::vector<void *> pointers(tensors_.size());
    flat(all, offsets, &detail::Expected::dtype, all.data(), nullptr, pointers.data(), nullptr);
    std::vector<Buffer> buffers;
    for (std::size_t i = 0; i < pointers.size(); i++)
      buffers.push_back(Buffer(pointers[i], tensors_[i].size, all.dtype()));
    return buffers;
  }
  /// The same of one buffer of all gradients.
  std::vector<ConstBuffer> flat_grads(const ConstBuffer &all,
                                      const std::vector<std::size_t> &offsets = {}) const {
    std::vector<const void *> pointers(tensors_.size());
    flat(all, offsets, &detail::Expected::grad_dtype, nullptr, all.data(), nullptr,
         pointers.data());
    std::vector<ConstBuffer> buffers;
    for (std::size_t i = 0; i < pointers.size(); i++)
      buffers.push_back(ConstBuffer(pointers[i], tensors_[i].size, all.dtype()));
    return buffers;
  }

  /// A copy with options, tensors, settings, texts and state, which is in memory.
  /// sonew_clone().
  [[nodiscard]] Optimizer clone() const {
    Optimizer copy;
    detail::check(sonew_clone(get(), copy.handle_.out()));
    copy.tensors_ = tensors_;
    return copy;
  }

  /// Makes the optimizer what it was when it was created. sonew_reset().
  void reset() { detail::check(sonew_reset(get())); }

  /// Its options; pool is null. sonew_get_options().
  Options options() const { return detail::ask<Options>(sonew_get_options, get()); }

  /// All tensors, with their names.
  std::vector<Tensor> tensors() const {
    std::vector<Tensor> all;
    for (std::size_t i = 0; i < tensors_.size(); i++) all.push_back(tensor(i));
    return all;
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

  /// What there is to know of the optimizer as a whole, also while another thread uses
  /// it. sonew_info().
  sonew_optimizer_info info() const { return detail::ask<sonew_optimizer_info>(sonew_info, get()); }

  /// Steps taken so far: that of info().
  std::uint64_t step_count() const { return info().step_count; }

  /// A tensor, with every type named. sonew_get_tensor().
  Tensor tensor(std::size_t tensor) const {
    return Tensor(detail::ask<sonew_tensor>(sonew_get_tensor, get(), tensor));
  }

  /// The index of the tensor with this name. Throws SONEW_UNKNOWN_TENSOR if there is none.
  std::size_t find_tensor(const std::string &name) const {
    get();
    for (std::size_t i = 0; i < tensors_.size(); i++)
      if (tensors_[i].name == name) return i;
    throw error(SONEW_UNKNOWN_TENSOR, "there is no tensor named \"" + name + "\"");
  }

  /// The learning-rate scale, weight decay and step count of a tensor, and the numbers of
  /// its state besides its planes. sonew_get_settings().
  sonew_settings settings(std::size_t tensor) const {
    return detail::ask<sonew_settings>(sonew_get_settings, get(), tensor);
  }
  /// Changes them: ask for them, change some, and set them. sonew_set_settings().
  void set_settings(std::size_t tensor, const sonew_settings &settings) {
    detail::check(sonew_set_settings(get(), tensor, &settings));
  }

  /// A view of a state plane, one of plane_count. sonew_plane_view().
  View plane(std::size_t tensor, std::size_t plane) const {
    return detail::ask<View>(sonew_plane_view, get(), tensor, plane);
  }
  /// A view of a state plane, found by names: "momentum", "diagonal", "band.1" and so on,
  /// "rms", "master". Throws SONEW_UNKNOWN_TENSOR or SONEW_UNKNOWN_PLANE if there is none.
  View plane(const std::string &tensor, const std::string &plane) const {
    const std::size_t index = find_tensor(tensor);
    for (std::int32_t i = 0, count = 1; i < count; i++) {
      const View view = this->plane(index, static_cast<std::size_t>(i));
      if (view.plane == plane) return view;
      count = view.plane_count;
    }
    throw error(SONEW_UNKNOWN_PLANE,
                "tensor \"" + tensor + "\" has no state plane named \"" + plane + "\"");
  }

  /// Replaces the state by a copy of the caller's: its step count, which becomes
  /// that of every tensor, too, and all planes, those of the first tensor first.
  /// sonew_set_state().
  void set_state(std::uint64_t step_count, const ConstBuffers &planes) {
    std::vector<const void *> pointers;
    for (std::size_t i = 0; i < planes.size(); i++) pointers.push_back(planes[i].data());
    std::size_t first = 0;
    for (std::size_t i = 0; i < tensors_.size(); i++) {
      const auto count = static_cast<std::size_t>(plane(i, 0).plane_count);
      for (std::size_t p = 0; p < count && first + p < planes.size(); p++) {
        const View own = plane(i, p);
        tensors_[i].fits(planes[first + p], own.plane, own.dtype, own.len);
      }
      first += count;
    }
    detail::check(sonew_set_state(get(), step_count, pointers.data(), pointers.size()));
  }

  /// How many partial sums a tensor with pooled correlations has: (band + 1) L, (rank + 1) L or
  /// L L with L coordinates in a chain; 0 without, or with those of the step itself.
  /// sonew_partial_sums().
  std::size_t partial_sums_size(std::size_t tensor) const {
    std::size_t size = 0;
    detail::check(sonew_partial_sums(get(), tensor, nullptr, 0, &size));
    return size;
  }

  /// Writes what this optimizer has of the sums of products of a tensor's last step to a buffer
  /// of that size: double if the tensor's parameters or state are, otherwise float. They are to
  /// be added up over all shards of the tensor, and given back by set_reduced_sums() before the
  /// next step; zeros where there is nothing to be added up. While a step in stages is under
  /// way, possible from Stage::norms on. sonew_partial_sums().
  void partial_sums(std::size_t tensor, const Buffer &to) const {
    check_sums(tensor, to, "the partial sums");
    detail::check(sonew_partial_sums(get(), tensor, to.data(), to.size(), nullptr));
  }

  /// Puts sums over all shards in the place of partial_sums(). sonew_set_reduced_sums().
  void set_reduced_sums(std::size_t tensor, const ConstBuffer &sums) {
    check_sums(tensor, sums, "the reduced sums");
    detail::check(sonew_set_reduced_sums(get(), tensor, sums.data(), sums.size()));
  }

  /// The handle, for functions of sonew.h; this object still owns it.
  sonew_optimizer *get() const { return handle_.get(); }

 private:
  Optimizer() = default;

  void check_sums(std::size_t tensor, const ConstBuffer &sums, const char *what) const {
    const std::size_t size = partial_sums_size(tensor);
    const detail::Expected &own = tensors_[tensor];
    own.fits(sums, what, own.arithmetic, size);
  }

  /// Compares buffers with their tensors and calls a function with them.
  template <class F, bool Lasting, class... Out>
  sonew_status call(F function, const Buffers &params, const List<const void, Lasting> &grads,
                    const StepOptions &options, Out... out) {
    sonew_optimizer *const optimizer = get();
    const auto p = detail::parameters(tensors_, params);
    const auto g = detail::pointers(tensors_, grads, "grads", "the gradient",
                                    &detail::Expected::grad_dtype);
    return function(optimizer, &options, p.data(), g.data(), p.size(), out...);
  }

  void load_from(const std::string *path, const Buffers &params, const LoadOptions &options) {
    const auto pointers = optional(params);
    std::vector<const char *> names;
    for (const auto &[from, to] : options.renames) {
      names.push_back(detail::c_string(from, "a rename"));
      names.push_back(detail::c_string(to, "a rename"));
    }
    std::vector<const char *> paths;
    for (const std::string &further : options.paths)
      paths.push_back(detail::c_string(further, "a path"));
    std::vector<const char *> overrides;
    for (const std::string &name : options.overrides)
      overrides.push_back(detail::c_string(name, "an override"));
    sonew_load_options c = options;
    c.renames = names.data();
    c.rename_count = options.renames.size();
    c.paths = paths.data();
    c.path_count = paths.size();
    c.overrides = overrides.data();
    c.override_count = overrides.size();
    detail::check(sonew_load(get(), path ? detail::c_string(*path, "path") : nullptr, &c,
                             pointers.data(), pointers.size()));
  }

  void flat(const ConstBuffer &all, const std::vector<std::size_t> &offsets,
            sonew_dtype detail::Expected::*dtype, void *flat_params, const void *flat_grads,
            void **params, const void **grads) const {
    sonew_optimizer *const optimizer = get();
    if (!tensors_.empty())
      detail::check_dtype(tensors_[0].name, "one buffer for all", all.dtype(),
                          tensors_[0].*dtype);
    if (!offsets.empty()) detail::check_count("offsets", offsets.size(), tensors_.size());
    detail::check(sonew_flat_pointers(optimizer, flat_params, flat_grads, all.size(),
                                      offsets.empty() ? nullptr : offsets.data(), params, grads));
  }

  /// Pointers to parameters, or no list at all.
  template <class V, bool Lasting>
  std::vector<void *> optional(const List<V, Lasting> &params) const {
    get();
    if (params.empty()) return {};
    return detail::parameters(tensors_, params);
  }

  detail::Tensors tensors_;
  detail::Handle<sonew_optimizer, sonew_free> handle_{"optimizer"};
};

// ---------------------------------------------------------------------------
// Contents of a file

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

  /// What the file is. sonew_file_info().
  sonew_contents info() const { return detail::ask<sonew_contents>(sonew_file_info, get()); }

  /// The options of the optimizer that wrote the file; threads and instruction_set
  /// have their defaults. sonew_file_options().
  Options options() const { return detail::ask<Options>(sonew_file_options, get()); }

  /// A tensor, with every type named. sonew_file_tensor().
  Tensor tensor(std::size_t tensor) const {
    return Tensor(detail::ask<sonew_tensor>(sonew_file_tensor, get(), tensor));
  }

  /// All tensors, for the constructor of Optimizer.
  std::vector<Tensor> tensors() const {
    std::vector<Tensor> tensors;
    const std::size_t count = info().tensor_count;
    for (std::size_t i = 0; i < count; i++) tensors.push_back(tensor(i));
    return tensors;
  }

  /// The settings of a tensor. sonew_file_settings().
  sonew_settings settings(std::size_t tensor) const {
    return detail::ask<sonew_settings>(sonew_file_settings, get(), tensor);
  }

  /// The arrays that the file has of a tensor: its state planes, and "parameter" if the
  /// file has the parameters. sonew_file_arrays().
  std::vector<Plane> arrays(std::size_t tensor) const {
    return detail::from_c(detail::ask<sonew_planes>(sonew_file_arrays, get(), tensor));
  }

  /// Copies an array of a tensor, one of arrays(), to a buffer of its length and type,
  /// and compares its checksum, if it has one. sonew_file_read().
  void read(std::size_t tensor, const std::string &array, const Buffer &to) const {
    const detail::Expected expected(this->tensor(tensor));
    for (const Plane &plane : arrays(tensor))
      if (plane.name == array) expected.fits(to, array.c_str(), plane.dtype, plane.len);
    detail::check(sonew_file_read(get(), tensor, detail::c_string(array, "array"), to.data()));
  }

  /// The texts that the program has saved with the state, by their keys. sonew_file_text().
  std::map<std::string, std::string> texts() const {
    const sonew_contents contents = info();
    std::map<std::string, std::string> texts;
    for (std::size_t i = 0; i < contents.text_count; i++) {
      const char *text = nullptr;
      detail::check(sonew_file_text(get(), contents.text_keys[i], &text));
      texts.emplace(contents.text_keys[i], text);
    }
    return texts;
  }

  /// The handle, for functions of sonew.h; this object still owns it.
  sonew_file *get() const { return handle_.get(); }

 private:
  detail::Handle<sonew_file, sonew_file_free> handle_{"file"};
};

/// Checks a whole file: its header, its sizes, and every checksum.
/// sonew_verify().
inline void verify(const std::string &path) {
  detail::check(sonew_verify(detail::c_string(path, "path")));
}

// ---------------------------------------------------------------------------
// Stateless step

/// The buffers of one tensor for one stateless step: the fields of sonew_buffers, with
/// their defaults; plane_count and len are known. Set either params, which are updated,
/// or direction, into which the direction is written. Without grad the tensor takes no
/// part in the step, and nothing else is needed.
struct TensorBuffers : sonew_buffers {
  TensorBuffers() { detail::check(sonew_buffers_init(this, 1, sizeof(sonew_buffers))); }

  Buffer params;
  Buffer direction;
  LastingBuffer grad;
  /// The state planes, in the order of Plan::planes(). Before the first step
  /// "master" is a copy of the parameters, and all others are zero.
  Buffers planes;
  /// The numbers of the tensor's state, zero before its first step: needed with
  /// lagged_norms, and for steps with betas of their own.
  std::array<double, SONEW_SCALARS> *scalars = nullptr;
};

/// A step over buffers that all belong to the caller: sonew_plan.
class Plan {
 public:
  /// Creates a plan. sonew_plan_create().
  explicit Plan(const std::vector<Tensor> &tensors, const Options &options = {})
      : tensors_(tensors.begin(), tensors.end()) {
    const std::vector<sonew_tensor> list = detail::to_c(tensors);
    detail::check(sonew_plan_create(&options, list.data(), list.size(), handle_.out()));
  }
  Plan(Plan &&) noexcept = default;
  Plan &operator=(Plan &&other) noexcept {
    Plan taken(std::move(other));
    tensors_.swap(taken.tensors_);
    std::swap(handle_, taken.handle_);
    return *this;
  }

  /// The state planes that a tensor needs. sonew_plan_planes().
  std::vector<Plane> planes(std::size_t tensor) const {
    return detail::from_c(detail::ask<sonew_planes>(sonew_plan_planes, get(), tensor));
  }

  /// Takes one step. number is the t of the bias correction, 1 for the first
  /// step. buffers has one entry for each tensor. sonew_plan_step().
  void step(std::uint64_t number, const std::vector<TensorBuffers> &buffers,
            const StepOptions &options = {}) {
    detail::check(call(sonew_plan_step, number, buffers, options));
  }

  /// As step(), but returns false if the step was skipped because of a gradient
  /// that is not finite.
  [[nodiscard]] bool try_step(std::uint64_t number, const std::vector<TensorBuffers> &buffers,
                              const StepOptions &options = {}) {
    return detail::check_step(call(sonew_plan_step, number, buffers, options));
  }

  /// Begins a step in stages. sonew_plan_stages_begin().
  [[nodiscard]] Stages stages(std::uint64_t number, const std::vector<TensorBuffers> &buffers,
                              const StepOptions &options = {}) {
    Stages stages(tensors_.size());
    detail::check(call(sonew_plan_stages_begin, number, buffers, options, stages.handle_.out()));
    return stages;
  }

  /// The handle, for functions of sonew.h; this object still owns it.
  sonew_plan *get() const { return handle_.get(); }

 private:
  /// Compares buffers with their tensors and calls a function with them.
  template <class F, class... Out>
  sonew_status call(F function, std::uint64_t number, const std::vector<TensorBuffers> &buffers,
                    const StepOptions &options, Out... out) {
    sonew_plan *const plan = get();
    detail::check_count("buffers", buffers.size(), tensors_.size());
    std::vector<std::vector<void *>> planes(buffers.size());
    std::vector<sonew_buffers> list(buffers.begin(), buffers.end());
    for (std::size_t i = 0; i < buffers.size(); i++) {
      const TensorBuffers &from = buffers[i];
      if (!from.grad) continue;  // The library looks at nothing else.
      const detail::Expected &tensor = tensors_[i];
      tensor.fits(from.params, "the parameter", tensor.dtype);
      tensor.fits(from.direction, "the direction", tensor.dtype);
      tensor.fits(from.grad, "the gradient", tensor.grad_dtype);
      const auto needed = detail::ask<sonew_planes>(sonew_plan_planes, plan, i);
      for (std::size_t p = 0; p < from.planes.size(); p++) {
        if (p < needed.count)
          tensor.fits(from.planes[p], needed.names[p], needed.dtypes[p], needed.lens[p]);
        planes[i].push_back(from.planes[p].data());
      }
      sonew_buffers &to = list[i];
      to.params = from.params.data();
      to.direction = from.direction.data();
      to.grad = from.grad.data();
      to.planes = planes[i].data();
      to.plane_count = planes[i].size();
      to.len = tensor.size;
      to.scalars = from.scalars ? from.scalars->data() : nullptr;
    }
    return function(plan, &options, number, list.data(), list.size(), out...);
  }

  detail::Tensors tensors_;
  detail::Handle<sonew_plan, sonew_plan_free> handle_{"plan"};
};

// ---------------------------------------------------------------------------
// Version

/// The version of the library in use, as in "0.2.0".
inline std::string version() { return sonew_version(); }

}  // namespace sonew

#endif  // C++17, with exceptions

#endif  // SONEW_HPP
