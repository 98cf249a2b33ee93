// Data-parallel training with MPI. Each rank computes the gradient of some microbatches, owns
// some rows of every weight, with their optimizer state (ZeRO, stage 1), updates these, and gets
// the others. Checkpoints are sets of files, one for each rank, which any number of ranks loads.
//
//    mpirun -n 4 build/train                            200 steps
//    mpirun -n 4 build/train --lagged                   no wait before an update
//    mpirun -n 4 build/train --pooled                   the same, with pooled correlations
//    mpirun -n 4 build/train --steps 3 --trace          prints every collective
//    mpirun -n 4 build/train --steps 3 --pooled --beside-muon --trace
//                                                       and what Muon would have to gather
//    mpirun -n 4 build/train --steps 100 --save run     saves run/step-100
//    mpirun -n 2 build/train --load run/step-100        goes on to step 200
//
// The losses and the parameters have the same bits on any number of ranks:
// - A batch is 8 microbatches, whatever the ranks. Their gradients are added up as integers,
//   which have no rounding, so that it does not matter in which order MPI adds them. (A program
//   that does not need this reduces floats: half the bytes.)
// - Rows are cut between blocks (sonew::block_rows), and norms come from sums of blocks, which
//   are added up in the order of blocks (sonew::Stages::combine).
// With --pooled they are so up to rounding: sums over the rows of all ranks are float32, in MPI's
// order. Rows are then cut anywhere.
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include "ranks.hpp"

namespace fs = std::filesystem;

constexpr unsigned Microbatches = 8;
// Gradients are counted in these, up to 32768: 8 of them fit into 64 bits.
constexpr double Unit = 1.0 / (1LL << 44), Largest = 32768;

struct Settings {
  unsigned steps = 200, every = 0, seed = 1;
  bool lagged = false, pooled = false, trace = false;
  // Also gathers what Muon would have to, to be seen in the trace.
  bool beside_muon = false;
  std::string save, load;
  // For tests of what happens if a rank dies: which, where ("step" or "save"), and in which step.
  int dies = -1;
  std::string where;
  unsigned when = 0;

  Settings(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
      const std::string name = argv[i];
      const auto value = [&]() -> const char * {
        if (i + 1 == argc) throw std::runtime_error(name + " needs a value");
        return argv[++i];
      };
      const auto number = [&] { return static_cast<unsigned>(std::strtoul(value(), nullptr, 10)); };
      if (name == "--lagged") lagged = true;
      else if (name == "--pooled") lagged = pooled = true;
      else if (name == "--beside-muon") beside_muon = true;
      else if (name == "--trace") trace = true;
      else if (name == "--steps") steps = number();
      else if (name == "--every") every = number();
      else if (name == "--seed") seed = number();
      else if (name == "--save") save = value();
      else if (name == "--load") load = value();
      else if (name == "--kill") dies = static_cast<int>(number()), where = value(), when = number();
      else throw std::runtime_error("there is no argument " + name);
    }
    if (every == 0) every = steps;
  }
};

class Training {
 public:
  Training(Ranks &ranks, const Settings &settings)
      : ranks_(ranks), settings_(settings), params_(first_parameters(settings.seed)) {
    options_.lagged_norms = settings.lagged;
    if (settings.pooled) {
      options_.pooling = sonew::Pooling::band;
      options_.band = 16;
    }
    options_.threads = 1;
    // That is checked where gradients become integers.
    step_.non_finite = sonew::NonFinite::unchecked;
    std::vector<sonew::Tensor> tensors;
    for (const Part &part : parts_) {
      sonew::Tensor tensor(part.name, sonew::Dims(part.dims));
      // A unit is a row; chains do not go on from one to the next.
      tensor.chains = sonew::Chains::contiguous_lines;
      if (part.dims.size() == 1) tensor.update = sonew::Update::adam;
      tensors.push_back(tensor);
    }
    std::vector<std::size_t> block_rows;
    for (const sonew::Tensor &tensor : tensors)
      block_rows.push_back(settings.pooled ? 1 : sonew::block_rows(tensor, options_));
    shards_.emplace(parts_, block_rows, ranks.count);
    for (std::size_t t = 0; t < tensors.size(); t++) {
      const Rows &own = shards_->rows(t, ranks.rank);
      tensors[t].first_row = own.first;
      tensors[t].whole_rows = parts_[t].dims[0];
      tensors[t].dims[0] = own.end - own.first;
    }
    optimizer_.emplace(tensors, options_);
    if (!settings.load.empty()) load(settings.load);
    ranks.traces = settings.trace;
  }

  void run() {
    const unsigned first = static_cast<unsigned>(optimizer_->step_count());
    if (ranks_.rank == 0) std::printf("%8s %12s\n", "step", "loss");
    std::vector<double> seconds{0};
    for (unsigned i = first; i < settings_.steps; i++) {
      const double begin = MPI_Wtime();
      const double loss = compute_gradient(i);
      if (ranks_.rank == 0 && (i % 20 == 0 || i + 1 == settings_.steps))
        std::printf("%8u %12.9f\n", i, loss);
      step_.lr = 0.01 * (1 - static_cast<double>(i) / 400);
      finish();
      step(i);
      ranks_.gather("parameters", params_, *shards_);
      seconds.push_back(MPI_Wtime() - begin);
      if (!settings_.save.empty() && (i + 1) % settings_.every == 0) save(i + 1);
    }
    finish();
    ranks_.gather("parameters", params_, *shards_);
    if (ranks_.rank > 0) return;
    std::printf("parameters %016llx\n", static_cast<unsigned long long>(hash()));
    ranks_.print_table();
    std::sort(seconds.begin(), seconds.end());
    std::printf("\n%d ranks, %.2f ms a step (median)\n", ranks_.count,
                1e3 * seconds[seconds.size() / 2]);
  }

 private:
  // The mean gradient of all microbatches, on every rank. Returns the mean loss, which travels
  // with it, as does the number of gradients that are not finite.
  double compute_gradient(unsigned step) {
    std::vector<std::int64_t> sums(params_.size() + 2);
    const auto add = [&](double x, std::int64_t &sum) {
      if (std::fabs(x) < Largest) sum += std::llrint(x / Unit);
      else sums.back()++;
    };
    Floats gradient;
    const auto cut = [&](int rank) { return Microbatches * static_cast<unsigned>(rank) / static_cast<unsigned>(ranks_.count); };
    for (unsigned m = cut(ranks_.rank); m < cut(ranks_.rank + 1); m++) {
      const double loss = loss_and_gradient(params_, step, m, gradient);
      for (std::size_t i = 0; i < gradient.size(); i++)
        add(static_cast<double>(gradient[i]), sums[i]);
      add(loss, sums[params_.size()]);
      // MPI gets on with what is in the background only when it is called.
      ranks_.progress();
    }
    ranks_.sum("gradients", sums);
    if (sums.back() > 0) throw std::runtime_error("a gradient is not finite");
    // A step that has come to its norms does not read its gradient any more.
    Floats &mean = gradient_;
    mean.resize(params_.size());
    const auto of = [](std::int64_t sum) { return static_cast<double>(sum) * (Unit / Microbatches); };
    for (std::size_t i = 0; i < mean.size(); i++) mean[i] = static_cast<float>(of(sums[i]));
    return of(sums[params_.size()]);
  }

  // Where the rows of a rank are in a buffer.
  template <class B, class F>
  std::vector<B> own(F *buffer) const {
    std::vector<B> list;
    for (std::size_t t = 0; t < parts_.size(); t++) {
      const Rows &rows = shards_->rows(t, ranks_.rank);
      const std::size_t len = parts_[t].row_len();
      list.push_back({buffer + parts_[t].first + rows.first * len, (rows.end - rows.first) * len});
    }
    return list;
  }

  // Updates the rows of this rank. With lagged norms, they are those of the step before, and
  // what this step measures is reduced in the background. The first step has none before it.
  void step(unsigned number) {
    if (settings_.beside_muon) gather_momenta();
    stages_.emplace(optimizer_->stages(own<sonew::Buffer>(params_.data()),
                                       own<sonew::LastingBuffer>(gradient_.data()), step_));
    const bool waits = !settings_.lagged || number == 0;
    for (sonew::Stage stage; (stage = stages_->next()) != sonew::Stage::done;) {
      die("step", number);
      numbers_ = numbers_of_stage();
      if (waits) {
        ranks_.sum(stage == sonew::Stage::norms ? "norms" : "damping", numbers_);
        combine(stage, numbers_);
      } else if (stage == sonew::Stage::largest_l1) {
        // For the next step: it is put right there.
        largest_ = numbers_;
      } else {
        // Each number is zero on all ranks but one, so that the sum is also the largest.
        numbers_.insert(numbers_.end(), largest_.begin(), largest_.end());
        ranks_.begin_sum("norms, damping", numbers_);
        begin_correlations();
        return;
      }
    }
    stages_.reset();
    begin_correlations();
  }

  // Ends a step whose norms, and pooled sums, have been reduced in the background.
  void finish() {
    ranks_.finish_sums();
    if (stages_) finish_stages();
    const float *next = sums_.data();
    for (std::size_t t = 0; !sums_.empty() && t < parts_.size(); t++) {
      const std::size_t size = optimizer_->partial_sums_size(t);
      optimizer_->set_reduced_sums(t, {next, size});
      next += size;
    }
    sums_.clear();
  }

  void finish_stages() {
    const std::size_t half = numbers_.size() / 2;
    const std::vector<std::size_t> counts = counts_of_stage();
    combine(sonew::Stage::norms,
            {numbers_.begin(), numbers_.begin() + static_cast<std::ptrdiff_t>(half)});
    while (stages_->next() != sonew::Stage::done) {}
    stages_.reset();
    std::size_t next = half;
    for (std::size_t t = 0; t < parts_.size(); t++) {
      double largest = 0;
      for (std::size_t i = 0; i < counts[t]; i++, next += 2)
        largest = std::max(largest, numbers_[next]);
      sonew_settings settings = optimizer_->settings(t);
      settings.scalars[3] = largest;
      optimizer_->set_settings(t, settings);
    }
  }

  // What this rank has of the sums of products is reduced before the next step.
  void begin_correlations() {
    if (!settings_.pooled) return;
    for (std::size_t t = 0; t < parts_.size(); t++) {
      const std::size_t size = optimizer_->partial_sums_size(t);
      sums_.resize(sums_.size() + size);
      optimizer_->partial_sums(t, {sums_.data() + sums_.size() - size, size});
    }
    ranks_.begin_sum("correlations", sums_);
  }

  // The numbers of a stage in parts, each of which one rank has, and zeros of the others. Parts
  // are blocks; with pooled correlations, whose blocks depend on the cut, they are what each
  // rank has of a tensor.
  std::vector<double> numbers_of_stage() {
    if (!settings_.pooled) return stages_->block_numbers();
    const sonew::Span<double> own = stages_->numbers();
    const auto count = static_cast<std::size_t>(ranks_.count);
    const auto rank = static_cast<std::size_t>(ranks_.rank);
    std::vector<double> all(own.size() * count);
    for (std::size_t i = 0; i < own.size(); i++)
      all[2 * (i / 2 * count + rank) + i % 2] = own[i];
    return all;
  }

  // How many parts each tensor has.
  std::vector<std::size_t> counts_of_stage() const {
    if (!settings_.pooled) return stages_->blocks();
    return std::vector<std::size_t>(parts_.size(), static_cast<std::size_t>(ranks_.count));
  }

  // Puts what the parts of all ranks make in the place of the numbers of a stage.
  void combine(sonew::Stage stage, const std::vector<double> &all) {
    if (!settings_.pooled) return stages_->combine(all);
    const sonew::Span<double> numbers = stages_->numbers();
    const auto count = static_cast<std::size_t>(ranks_.count);
    for (std::size_t i = 0; i < numbers.size(); i++) {
      numbers[i] = 0;
      for (std::size_t part = 0; part < count; part++) {
        const double number = all[2 * (i / 2 * count + part) + i % 2];
        numbers[i] = stage == sonew::Stage::largest_l1 ? std::max(numbers[i], number)
                                                       : numbers[i] + number;
      }
    }
  }

  // Muon orthogonalizes the momenta of whole matrices: before its update every rank needs those
  // of all others, here in bfloat16. Nothing is done with them.
  void gather_momenta() {
    std::vector<std::uint16_t> all(params_.size());
    for (std::size_t t = 0; t < parts_.size(); t++) {
      const sonew::Span<const float> momentum = optimizer_->plane(t, 0).as<float>();
      const std::size_t first = parts_[t].first + shards_->rows(t, ranks_.rank).first * parts_[t].row_len();
      for (std::size_t i = 0; i < momentum.size(); i++) {
        std::uint32_t bits;
        std::memcpy(&bits, &momentum[i], sizeof bits);
        all[first + i] = static_cast<std::uint16_t>(bits >> 16);
      }
    }
    ranks_.gather("momenta (Muon)", all, *shards_);
  }

  // Each rank writes a file into a folder, which gets its name when all are complete: a save that
  // fails, or that a rank does not survive, leaves the older sets.
  void save(unsigned step) {
    finish();
    // An update may have been taken back in part.
    ranks_.gather("parameters", params_, *shards_);
    const fs::path set = fs::path(settings_.save) / ("step-" + std::to_string(step));
    const fs::path unfinished = set.string() + ".unfinished";
    if (ranks_.rank == 0) {
      fs::remove_all(unfinished);
      fs::create_directories(unfinished);
    }
    ranks_.all(true);
    // Files of other runs that are in this step have another text.
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash()));
    optimizer_->set_text("set", text);
    char name[64];
    std::snprintf(name, sizeof name, "rank-%04d-of-%04d.safetensors", ranks_.rank, ranks_.count);
    optimizer_->save(unfinished / name, own<sonew::ConstBuffer>(params_.data()));
    die("save", step);
    ranks_.all(true);
    if (ranks_.rank == 0) fs::rename(unfinished, set);
    ranks_.all(true);
  }

  // Each rank takes its rows from the files of a set, however many ranks have written it.
  void load(const fs::path &set) {
    sonew::LoadOptions options;
    for (const auto &entry : fs::directory_iterator(set)) options.paths.push_back(entry.path());
    std::sort(options.paths.begin(), options.paths.end());
    if (options.paths.empty()) throw std::runtime_error(set.string() + " has no files");
    const auto text = [](const std::string &path) { return sonew::File(path).texts()["set"]; };
    const std::string first = options.paths.front();
    for (const std::string &path : options.paths)
      if (text(path) != text(first))
        throw std::runtime_error(path + " is of another save than " + first);
    options.paths.erase(options.paths.begin());
    optimizer_->load(first, own<sonew::Buffer>(params_.data()), options);
    ranks_.gather("parameters", params_, *shards_);
  }

  void die(const char *where, unsigned when) const {
    if (ranks_.rank == settings_.dies && settings_.where == where && settings_.when == when)
      std::raise(SIGKILL);
  }

  // FNV-1a over the bits of all parameters.
  std::uint64_t hash() const {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (float value : params_) {
      std::uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      hash = (hash ^ bits) * 0x100000001b3;
    }
    return hash;
  }

  Ranks &ranks_;
  const Settings &settings_;
  const std::vector<Part> parts_ = network();
  sonew::Options options_;
  sonew::StepOptions step_;
  Floats params_, gradient_;
  std::optional<Shards> shards_;
  std::optional<sonew::Optimizer> optimizer_;
  // A step whose numbers are being reduced, and these numbers.
  std::optional<sonew::Stages> stages_;
  std::vector<double> numbers_, largest_;
  Floats sums_;
};

int main(int argc, char **argv) {
  Ranks ranks(argc, argv);
  try {
    const Settings settings(argc, argv);
    Training(ranks, settings).run();
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "rank %d: %s\n", ranks.rank, error.what());
    // The others would wait for this one.
    MPI_Abort(MPI_COMM_WORLD, 1);
    return 1;
  }
}
