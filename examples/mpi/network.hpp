// A network from scratch on generated data: 64 -> 256 -> 256 -> 16, tanh. Its parameters, and
// their gradients, are one buffer each.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

using Floats = std::vector<float>;

// A weight [out, in], or a bias [out]: where it is in the buffers.
struct Part {
  std::string name;
  std::vector<std::size_t> dims;
  std::size_t first;

  std::size_t row_len() const { return dims.size() > 1 ? dims[1] : 1; }
  std::size_t size() const { return dims[0] * row_len(); }
};

// The tensors of the network, one after the other.
std::vector<Part> network();

// Parameters before the first step, the same on every rank.
Floats first_parameters(unsigned seed);

// The mean loss of one microbatch of a step, and its gradient.
double loss_and_gradient(const Floats &params, unsigned step, unsigned microbatch, Floats &gradient);
