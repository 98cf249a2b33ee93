#include "ranks.hpp"

#include <algorithm>
#include <cstdio>

Shards::Shards(const std::vector<Part> &parts, const std::vector<std::size_t> &block_rows,
               int ranks)
    : counts(ranks), firsts(ranks), rows_(parts.size(), std::vector<Rows>(ranks)) {
  const std::size_t all = parts.back().first + parts.back().size();
  for (std::size_t t = 0; t < parts.size(); t++) {
    const Part &part = parts[t];
    const std::size_t block = block_rows[t], end = part.dims[0];
    // A block belongs to the rank in whose share of the buffer its middle is.
    const auto owner = [&](std::size_t row) {
      const std::size_t middle = part.first + (row + std::min(row + block, end)) * part.row_len() / 2;
      return static_cast<int>(middle * static_cast<std::size_t>(ranks) / all);
    };
    std::size_t row = 0;
    for (int rank = 0; rank < ranks; rank++) {
      const std::size_t first = row;
      while (row < end && owner(row) == rank) row = std::min(row + block, end);
      rows_[t][rank] = {first, row};
      counts[rank] += static_cast<int>((row - first) * part.row_len());
    }
  }
  for (int rank = 1; rank < ranks; rank++) firsts[rank] = firsts[rank - 1] + counts[rank - 1];
}

// MPI's own error handler ends all ranks, so that no call here returns an error.
Ranks::Ranks(int &argc, char **&argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &count);
  started_ = MPI_Wtime();
}

Ranks::~Ranks() { MPI_Finalize(); }

void Ranks::trace(const char *what, const char *call, double begin) const {
  const double now = MPI_Wtime();
  if (traces && rank == 0)
    std::printf("  %9.3f ms  %-15s %-15s %9.3f ms\n", 1e3 * (begin - started_), what, call,
                1e3 * (now - begin));
}

template <class F>
void Ranks::timed(const char *what, const char *call, std::size_t bytes, F collective) {
  const double begin = MPI_Wtime();
  collective();
  trace(what, call, begin);
  Kind &kind = kinds_[what];
  kind.call = call;
  kind.calls++;
  kind.bytes = bytes;
  kind.seconds += MPI_Wtime() - begin;
}

void Ranks::sum(const char *what, std::vector<std::int64_t> &numbers) {
  timed(what, "MPI_Allreduce", 8 * numbers.size(), [&] {
    MPI_Allreduce(MPI_IN_PLACE, numbers.data(), static_cast<int>(numbers.size()), MPI_INT64_T,
                  MPI_SUM, MPI_COMM_WORLD);
  });
}

void Ranks::sum(const char *what, std::vector<double> &numbers) {
  timed(what, "MPI_Allreduce", 8 * numbers.size(), [&] {
    MPI_Allreduce(MPI_IN_PLACE, numbers.data(), static_cast<int>(numbers.size()), MPI_DOUBLE,
                  MPI_SUM, MPI_COMM_WORLD);
  });
}

void Ranks::begin_sum(const char *what, void *numbers, std::size_t count, MPI_Datatype type) {
  int size = 0;
  MPI_Type_size(type, &size);
  in_background_.push_back({what, MPI_REQUEST_NULL});
  timed(what, "MPI_Iallreduce", static_cast<std::size_t>(size) * count, [&] {
    MPI_Iallreduce(MPI_IN_PLACE, numbers, static_cast<int>(count), type, MPI_SUM, MPI_COMM_WORLD,
                   &in_background_.back().request);
  });
}

void Ranks::begin_sum(const char *what, std::vector<double> &numbers) {
  begin_sum(what, numbers.data(), numbers.size(), MPI_DOUBLE);
}

void Ranks::begin_sum(const char *what, Floats &numbers) {
  begin_sum(what, numbers.data(), numbers.size(), MPI_FLOAT);
}

void Ranks::progress() {
  int is_done = 0;
  for (InBackground &sum : in_background_) MPI_Test(&sum.request, &is_done, MPI_STATUS_IGNORE);
}

void Ranks::finish_sums() {
  for (InBackground &sum : in_background_) {
    int is_done = 0;
    const double begin = MPI_Wtime();
    MPI_Test(&sum.request, &is_done, MPI_STATUS_IGNORE);
    if (!is_done) MPI_Wait(&sum.request, MPI_STATUS_IGNORE);
    trace(sum.what, is_done ? "is there" : "MPI_Wait", begin);
    if (is_done) continue;
    kinds_[sum.what].waits++;
    kinds_[sum.what].seconds += MPI_Wtime() - begin;
  }
  in_background_.clear();
}

void Ranks::gather(const char *what, Floats &params, const Shards &shards) {
  timed(what, "MPI_Allgatherv", 4 * params.size(), [&] {
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, params.data(), shards.counts.data(),
                   shards.firsts.data(), MPI_FLOAT, MPI_COMM_WORLD);
  });
}

void Ranks::gather(const char *what, std::vector<std::uint16_t> &numbers, const Shards &shards) {
  timed(what, "MPI_Allgatherv", 2 * numbers.size(), [&] {
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, numbers.data(), shards.counts.data(),
                   shards.firsts.data(), MPI_UINT16_T, MPI_COMM_WORLD);
  });
}

bool Ranks::all(bool says) {
  int all = says;
  MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  return all;
}

void Ranks::print_table() const {
  std::printf("\n%-15s %-15s %6s %12s %6s %10s\n", "of", "collective", "calls", "bytes each",
              "waits", "ms each");
  for (const auto &[what, kind] : kinds_) {
    const bool is_blocking = std::string(kind.call)[4] == 'A';
    std::printf("%-15s %-15s %6ld %12zu %6ld %10.3f\n", what.c_str(), kind.call, kind.calls,
                kind.bytes, is_blocking ? kind.calls : kind.waits,
                1e3 * kind.seconds / static_cast<double>(kind.calls));
  }
}
