#include "memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace torch_maxpool::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// From this size on new memory is asked for in huge pages: most of the time that it takes goes into page faults.
constexpr size_t kInHugePages = size_t{16} << 20;

// From this size on kept memory is the system's to take back: worth a call of it for each release.
constexpr size_t kReclaimed = size_t{32} << 20;

// The whole pages of a block.
struct Pages {
  void* begin;
  size_t bytes;
};

[[maybe_unused]] Pages pages_of(void* data, size_t bytes, uintptr_t page) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + page - 1) / page * page;
  const uintptr_t end = (address + bytes) / page * page;
  return {reinterpret_cast<void*>(begin), end > begin ? end - begin : 0};
}

struct Block {
  void* data = nullptr;
  size_t bytes = 0;
};

constexpr size_t kMostBlocks = 16;

// Blocks that are to be freed; the others of the array are empty.
using Dropped = std::array<Block, kMostBlocks + 1>;

void free_all(const Dropped& dropped) {
  for (const Block& block : dropped) {
    c10::free_cpu(block.data);
  }
}

// Freed blocks, the oldest first. Who does not get hold of the lock at once does without: neither threads nor a forked
// child ever wait here.
class FreeBlocks {
 public:
  FreeBlocks(size_t most_blocks, size_t most_bytes) : most_blocks_(most_blocks), most_bytes_(most_bytes) {}

  // The newest block of `bytes` to 5/4 of it, or none.
  Block take(size_t bytes) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {
      return {}; // not covered: two threads in the same microsecond
    }
    for (size_t i = count_; i-- > 0;) {
      if (blocks_[i].bytes >= bytes && blocks_[i].bytes - bytes <= bytes / 4) {
        return remove(i);
      }
    }
    return {};
  }

  // Keeps the block, or returns it with those that must go for others.
  Dropped keep(const Block& block) {
    Dropped dropped;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || block.bytes > most_bytes_) {
      dropped[0] = block;
      return dropped;
    }
    for (size_t i = 0; count_ == most_blocks_ || bytes_ + block.bytes > most_bytes_; ++i) {
      dropped[i] = remove(0);
    }
    blocks_[count_++] = block;
    bytes_ += block.bytes;
    return dropped;
  }

  // All of them, for the system to have.
  Dropped drop() {
    Dropped dropped;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    for (size_t i = 0; lock.owns_lock() && count_ > 0; ++i) {
      dropped[i] = remove(0);
    }
    return dropped;
  }

 private:
  Block remove(size_t place) {
    const Block block = blocks_[place];
    std::copy(blocks_.begin() + place + 1, blocks_.begin() + count_, blocks_.begin() + place);
    --count_;
    bytes_ -= block.bytes;
    return block;
  }

  const size_t most_blocks_;
  const size_t most_bytes_;
  std::mutex mutex_;
  std::array<Block, kMostBlocks> blocks_;
  size_t count_ = 0;
  size_t bytes_ = 0; // of all blocks
};

// Both live as long as any tensor.
FreeBlocks& free_small_blocks() {
  static auto* const blocks = new FreeBlocks(kMostBlocks, size_t{64} << 20);
  return *blocks;
}

FreeBlocks& free_large_blocks() {
  static auto* const blocks = new FreeBlocks(2, size_t{512} << 20);
  return *blocks;
}

FreeBlocks& free_blocks(size_t bytes) {
  return bytes < kReclaimed ? free_small_blocks() : free_large_blocks();
}

void advise_huge_pages([[maybe_unused]] const Block& block) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const Pages pages = pages_of(block.data, block.bytes, kHugePage);
  madvise(pages.begin, pages.bytes, MADV_HUGEPAGE); // a hint: its failure changes nothing
#endif
}

void allow_reclaim([[maybe_unused]] const Block& block) {
#if defined(__linux__) && defined(MADV_FREE)
  const Pages pages = pages_of(block.data, block.bytes, uintptr_t{4096});
  madvise(pages.begin, pages.bytes, MADV_FREE); // a hint: its failure changes nothing
#endif
}

Block new_block(size_t bytes) {
  Block block{nullptr, bytes};
  try {
    block.data = c10::alloc_cpu(bytes);
  } catch (const c10::Error&) { // there may be enough with what is kept here
    free_all(free_small_blocks().drop());
    free_all(free_large_blocks().drop());
    block.data = c10::alloc_cpu(bytes);
  }
  if (bytes >= kInHugePages) {
    advise_huge_pages(block);
  }
  return block;
}

void release(void* context) {
  const std::unique_ptr<Block> block(static_cast<Block*>(context));
  c10::profiledCPUMemoryReporter().Delete(block->data);
  if (block->bytes >= kReclaimed) {
    allow_reclaim(*block);
  }
  free_all(free_blocks(block->bytes).keep(*block));
}

class LargeResults final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kLargeResult) { // a tensor may be resized to less
      return c10::GetCPUAllocator()->allocate(bytes);
    }
    auto block = std::make_unique<Block>(free_blocks(bytes).take(bytes));
    if (!block->data) {
      *block = new_block(bytes);
    }
    void* const data = block->data;
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, block.release(), release, c10::Device(c10::DeviceType::CPU)};
  }
  // Every allocator must have one; PyTorch asks those alone whose memory it lets tensors share until one is written to.
  void copy_data(void* to, const void* from, size_t bytes) const override { // not covered: see above
    default_copy_data(to, from, bytes); // not covered: see above
  }
};

} // namespace

c10::Allocator* large_results() {
  static auto* const allocator = new LargeResults;
  return allocator;
}

} // namespace torch_maxpool::cpu
