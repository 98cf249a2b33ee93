// Eigen's objects as buffers: those that are one contiguous run work as they are. With
// REFUSED defined, each line that has a comment "no:" must not compile, with a message
// that has these words.
#include "check.hpp"

#include <Eigen/Dense>

template <>
struct sonew::dtype_of<Eigen::bfloat16> : sonew::is<sonew::Dtype::bf16> {};

using Eigen::MatrixXf;
using Eigen::VectorXf;
using sonew::Buffer;
using sonew::ConstBuffer;
using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

static MatrixXf make() { return MatrixXf::Ones(2, 3); }

static void of_ref(Eigen::Ref<VectorXf> vector, float *data) {
  CHECK(Buffer(vector).data() == data && Buffer(vector).size() == 3);
}

static void accepted() {
  MatrixXf m = make();
  const MatrixXf constant = m;
  VectorXf v = VectorXf::Ones(3);
  RowMajor r = m;
  Eigen::ArrayXXd array = Eigen::ArrayXXd::Ones(2, 2);
  Eigen::Matrix3f fixed = Eigen::Matrix3f::Zero();
  Eigen::Matrix<float, 4, 1, Eigen::DontAlign> unaligned;
  Eigen::Matrix<Eigen::bfloat16, 5, 1> few;
  CHECK(Buffer(m).data() == m.data() && Buffer(m).size() == 6);
  CHECK(ConstBuffer(constant).size() == 6 && Buffer(v).size() == 3 && Buffer(r).size() == 6);
  CHECK(Buffer(array).dtype() == sonew::Dtype::f64 && Buffer(array).size() == 4);
  CHECK(Buffer(fixed).size() == 9 && Buffer(unaligned).size() == 4);
  CHECK(Buffer(few).dtype() == sonew::Dtype::bf16);
  // Views that are one run: columns, of a matrix that is stored by rows its rows, parts of
  // vectors, and maps without strides.
  CHECK(Buffer(m.col(1)).data() == m.data() + 2 && Buffer(m.col(1)).size() == 2);
  CHECK(ConstBuffer(constant.col(1)).size() == 2 && Buffer(m.rightCols(2)).size() == 4);
  CHECK(Buffer(r.row(1)).data() == r.data() + 3 && Buffer(r.middleRows(0, 2)).size() == 6);
  CHECK(Buffer(v.head(2)).size() == 2 && Buffer(v.segment<2>(1)).data() == v.data() + 1);
  CHECK(Buffer(v.transpose()).size() == 3);
  Eigen::Map<MatrixXf> map(m.data(), 3, 2);
  Eigen::Map<const VectorXf> constant_map(m.data(), 6);
  CHECK(Buffer(map).size() == 6 && Buffer(map.col(1)).data() == m.data() + 3);
  CHECK(ConstBuffer(constant_map).size() == 6);
  CHECK(Buffer(Eigen::Map<VectorXf>(m.data(), 6)).size() == 6);
  of_ref(v, v.data());
  // A matrix seen as an array, an array as a matrix, and columns of these.
  CHECK(Buffer(m.array()).data() == m.data() && Buffer(m.array()).size() == 6);
  CHECK(Buffer(array.matrix()).data() == array.data() && Buffer(map.array()).size() == 6);
  CHECK(Buffer(v.array()).size() == 3 && ConstBuffer(constant.array()).size() == 6);
  CHECK(Buffer(m.array().col(1)).data() == m.data() + 2);
  // A temporary that owns its elements can be read.
  CHECK(ConstBuffer(make()).size() == 6);
}

// A matrix [out, in] that Eigen stores by columns is a tensor [in, out].
static void steps() {
  MatrixXf weight = MatrixXf::Constant(2, 3, 1), grad(2, 3);
  VectorXf bias = VectorXf::Zero(2), bias_grad(2);
  grad << 1, 2, 3, 4, 5, 6;
  bias_grad << 1, 2;
  sonew::Tensor tensor{"weight", {weight.cols(), weight.rows()}};
  tensor.chains = sonew::Chains::strided;
  sonew::Options options;
  options.beta2 = 0;
  sonew::Optimizer optimizer({tensor, {"bias", {bias.size()}}}, options);
  optimizer.step({weight, bias}, {grad, bias_grad});
  CHECK((weight.array() < 1).all() && (bias.array() < 0).all());
  // Neighbours are inputs of one unit: without decay an entry is the product of their gradients.
  const auto band = optimizer.plane("weight", "band.1").as<float>();
  const Eigen::Map<const MatrixXf> products(band.data(), 2, 3);
  CHECK(products(0, 0) == 1 * 2 && products(1, 1) == 5 * 6 && products(0, 2) == 3 * 4 && products(1, 2) == 0);
}

#ifdef REFUSED
static void refused(sonew::Optimizer &o) {
  MatrixXf w(2, 3), g(2, 3);
  VectorXf v(3), h(3);
  RowMajor r(2, 3);
  Eigen::Matrix2i integers;
  const MatrixXf constant = w;
  Eigen::Map<VectorXf, 0, Eigen::InnerStride<>> every_other(w.data(), 3, Eigen::InnerStride<>(2));
  Eigen::Map<MatrixXf, 0, Eigen::OuterStride<>> padded(w.data(), 1, 3, Eigen::OuterStride<>(2));
  Eigen::Ref<MatrixXf> ref = w;
  sonew::TensorBuffers buffers;

  o.step(w.row(0), g);                 // no: contiguous
  o.step(w, g.row(0));                 // no: contiguous
  o.step(w.block(0, 0, 1, 2), g);      // no: contiguous
  o.step(w, g.transpose());            // no: contiguous
  o.step(w.diagonal(), g);             // no: contiguous
  o.step(r.col(0), g);                 // no: contiguous
  o.step(every_other, g);              // no: contiguous
  o.step(padded, g);                   // no: contiguous
  o.step(padded.leftCols(2), g);       // no: contiguous
  o.step(ref, g);                      // no: contiguous
  o.step(v.reverse(), h);              // no: contiguous
  o.step(v, h + h);                    // no: contiguous
  o.step(w.array(), g.array() + 1);    // no: contiguous
  o.step(w.row(0).array(), g);         // no: contiguous
  o.step(w.block(0, 0, 1, 2).array(), g);  // no: contiguous
  o.step(w.transpose().array(), g);    // no: contiguous
  o.step({v, w.topRows<2>()}, {h, g});   // no: contiguous
  o.step(integers, g);                 // no: elements are float
  o.step(make(), g);                   // no: temporary
  buffers.grad = VectorXf(h);          // no: temporary
  o.step(constant, g);                 // no: const
  o.step(constant.col(0), g);          // no: const
  o.step(constant.array(), g);         // no: const
}
#endif

int main() {
  accepted();
  steps();
  std::puts("all accepted");
}
