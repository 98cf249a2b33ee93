// What ranks share, and how they talk: which of them owns which rows, and collectives that are
// counted and timed.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "network.hpp"
#include <sonew.hpp>

// Rows of a tensor, which one rank owns.
struct Rows {
  std::size_t first, end;
};

// Which parameters ranks own: whole blocks of rows, so that results do not depend on how many
// ranks there are, or any rows; and one range of the buffer of all for each rank.
class Shards {
 public:
  Shards(const std::vector<Part> &parts, const std::vector<std::size_t> &block_rows, int ranks);

  const Rows &rows(std::size_t tensor, int rank) const { return rows_[tensor][rank]; }

  // For MPI_Allgatherv.
  std::vector<int> counts, firsts;

 private:
  std::vector<std::vector<Rows>> rows_;
};

// The collectives of the program.
class Ranks {
 public:
  Ranks(int &argc, char **&argv);
  ~Ranks();

  int rank = 0, count = 1;
  // Rank 0 prints each collective, and when it came.
  bool traces = false;

  // Each rank has all sums then.
  void sum(const char *what, std::vector<std::int64_t> &numbers);
  void sum(const char *what, std::vector<double> &numbers);
  // The same in the background: finish_sums() waits for all of them, and progress() gets on with
  // them.
  void begin_sum(const char *what, std::vector<double> &numbers);
  void begin_sum(const char *what, Floats &numbers);
  void progress();
  void finish_sums();
  // Every rank's range of the parameters, or of numbers of 16 bits, comes to all others.
  void gather(const char *what, Floats &params, const Shards &shards);
  void gather(const char *what, std::vector<std::uint16_t> &numbers, const Shards &shards);
  // Whether all ranks say so.
  bool all(bool says);

  // A table of the collectives so far: how often this rank stood still until others were there
  // too, which with those in the background is where they were not done when they were needed.
  void print_table() const;

 private:
  struct Kind {
    const char *call;
    long calls = 0, waits = 0;
    std::size_t bytes = 0;
    double seconds = 0;
  };
  struct InBackground {
    const char *what;
    MPI_Request request;
  };
  void begin_sum(const char *what, void *numbers, std::size_t count, MPI_Datatype type);
  void trace(const char *what, const char *call, double begin) const;
  template <class F>
  void timed(const char *what, const char *call, std::size_t bytes, F collective);

  std::map<std::string, Kind> kinds_;
  std::vector<InBackground> in_background_;
  double started_ = 0;
};
