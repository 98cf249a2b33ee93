// Armadillo's objects as buffers: those that are one contiguous run work as they are. With
// REFUSED defined, each line that has a comment "no:" must not compile, with a message
// that has these words.
#include "check.hpp"

#define ARMA_DONT_USE_WRAPPER  // Nothing here needs a library.
#include <armadillo>

using sonew::Buffer;
using sonew::Buffers;
using sonew::ConstBuffer;

static arma::fmat make() { return arma::fmat(2, 3, arma::fill::ones); }

static void accepted() {
  arma::fmat m = make();
  const arma::fmat constant = m;
  arma::fvec v(3);
  arma::rowvec row(4);
  arma::fcube cube(2, 3, 4);
  arma::fmat::fixed<2, 2> fixed;
  arma::field<arma::fmat> layers(2);
  CHECK(Buffer(m).data() == m.memptr() && Buffer(m).size() == 6);
  CHECK(ConstBuffer(constant).size() == 6 && Buffer(v).size() == 3 && Buffers(v).size() == 1);
  CHECK(Buffer(row).dtype() == sonew::Dtype::f64 && Buffer(cube).size() == 24);
  CHECK(Buffer(fixed).size() == 4 && Buffers(layers).size() == 2);
  CHECK(ConstBuffer(make()).size() == 6);
  CHECK(Buffer(m.colptr(1), m.n_rows).size() == 2);
}

// A matrix [out, in] that Armadillo stores by columns is a tensor [in, out].
static void steps() {
  arma::fmat weight(2, 3, arma::fill::ones), grad = {{1, 2, 3}, {4, 5, 6}};
  sonew::Tensor tensor{"weight", {weight.n_cols, weight.n_rows}};
  tensor.chains = sonew::Chains::strided;
  sonew::Options options;
  options.beta2 = 0;
  sonew::Optimizer optimizer({tensor}, options);
  optimizer.step(weight, grad);
  CHECK(weight.max() < 1);
  const auto band = optimizer.plane("weight", "band.1").as<float>();
  const arma::fmat products(band.data(), 2, 3);
  CHECK(products(0, 0) == 1 * 2 && products(1, 1) == 5 * 6 && products(1, 2) == 0);
}

#ifdef REFUSED
static void refused(sonew::Optimizer &o) {
  arma::fmat w(2, 3), g(2, 3);
  const arma::fmat constant = w;
  arma::imat integers(2, 3);
  arma::sp_fmat sparse(2, 3);
  o.step(w.row(0), g);               // no: contiguous
  o.step(w.submat(0, 0, 0, 1), g);   // no: contiguous
  o.step(w.col(0), g);               // no: contiguous
  o.step(w, g.t());                  // no: contiguous
  o.step(w.diag(), g);               // no: contiguous
  o.step(sparse, g);                 // no: contiguous
  o.step(w, g + g);                  // no: contiguous
  o.step(integers, g);               // no: elements are float
  o.step(make(), g);                 // no: temporary
  o.step(constant, g);               // no: const
}
#endif

int main() {
  accepted();
  steps();
  std::puts("all accepted");
}
