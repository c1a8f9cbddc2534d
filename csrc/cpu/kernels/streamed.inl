// Results that pass by the cache whatever rows they are made of.

namespace {

// Units whose results follow each other in memory write them to scratch, from where whole lines of the cache go to memory:
// to stream parts of lines takes two to four times as long as to store them (measured on Zen 3).
class StreamedLines {
 public:
  static constexpr int64_t kLine = 64;
  static constexpr int64_t kMostBytes = int64_t{256} << 10; // that a unit may write

  // Of scratch, for units that write up to `bytes` each.
  static constexpr int64_t scratch_bytes(int64_t bytes) {
    return kMostKept + bytes + 2 * kLine;
  }
  explicit StreamedLines(void* scratch)
      : lines_(static_cast<char*>(scratch) + (kLine - reinterpret_cast<uintptr_t>(scratch) % kLine) % kLine) {}

  // Where in scratch the next unit may write its results, which are to be at `to`: behind those of the unit before.
  template <class T>
  T* begin(T* to) {
    if (to_ == nullptr) {
      begin_ = end_ = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % kLine);
      to_ = reinterpret_cast<char*>(to) - begin_;
    }
    return reinterpret_cast<T*>(lines_ + end_);
  }

  // That unit has written `bytes`.
  void end(int64_t bytes) {
    end_ += bytes;
    if (end_ >= kMostKept) {
      stream_whole();
    }
  }

  // After the last unit.
  void finish() {
    stream_whole();
    copy_bytes(to_ + begin_, lines_ + begin_, end_ - begin_);
    stream_fence();
  }

 private:
  static constexpr int64_t kMostKept = 4096; // bytes between units

  void stream_whole() {
    typedef Vector<uint64_t, kVectorBytes / 8> V;
    const int64_t whole = end_ / kLine * kLine;
    if (whole == 0) {
      return;
    }
    int64_t i = 0;
    if (begin_ > 0) { // the first line has other results too
      copy_bytes(to_ + begin_, lines_ + begin_, kLine - begin_);
      begin_ = 0;
      i = kLine;
    }
    for (; i < whole; i += static_cast<int64_t>(sizeof(V))) {
      stream_vector(to_ + i, load_vector<V>(lines_ + i));
    }
    __builtin_memcpy(lines_, lines_ + whole, kLine); // there is room for the rest of it
    to_ += whole;
    end_ -= whole;
  }

  char* const lines_;
  char* to_ = nullptr; // where lines_ goes
  int64_t begin_ = 0, end_ = 0; // what it holds
};

} // namespace
