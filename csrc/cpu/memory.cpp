#include "memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace torch_maxpool::cpu {
namespace {

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

// Freed blocks, the oldest first. Who does not get hold of the lock at once does without: neither threads nor a forked
// child ever wait here.
class FreeBlocks {
 public:
  // A block of `bytes` to 5/4 of it, or none.
  Block take(size_t bytes) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {
      return {}; // not covered: two threads in the same microsecond
    }
    for (Block& block : blocks_) {
      if (block.bytes >= bytes && block.bytes - bytes <= bytes / 4) {
        return std::exchange(block, {});
      }
    }
    return {};
  }

  // Keeps the block; returns another one, which is to be freed, or none.
  Block keep(const Block& block) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || block.bytes > kMostBytes) {
      return block;
    }
    size_t place = 0; // of the oldest, or of none
    while (place < blocks_.size() && blocks_[place].data) {
      ++place;
    }
    place = place < blocks_.size() ? place : 0;
    const Block other = blocks_[place];
    for (; place + 1 < blocks_.size(); ++place) {
      blocks_[place] = blocks_[place + 1];
    }
    blocks_.back() = block;
    return other;
  }

 private:
  static constexpr size_t kMostBytes = size_t{256} << 20; // of one block

  std::mutex mutex_;
  std::array<Block, 2> blocks_;
};

FreeBlocks& free_blocks() {
  static auto* const blocks = new FreeBlocks; // lives as long as any tensor
  return *blocks;
}

void allow_reclaim([[maybe_unused]] const Block& block) {
#if defined(__linux__) && defined(MADV_FREE)
  const Pages pages = pages_of(block.data, block.bytes, uintptr_t{4096});
  madvise(pages.begin, pages.bytes, MADV_FREE); // a hint: its failure changes nothing
#endif
}

void release(void* context) {
  const std::unique_ptr<Block> block(static_cast<Block*>(context));
  c10::profiledCPUMemoryReporter().Delete(block->data);
  allow_reclaim(*block);
  c10::free_cpu(free_blocks().keep(*block).data);
}

class LargeResults final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kLargeResult) { // a tensor may be resized to less
      return c10::GetCPUAllocator()->allocate(bytes);
    }
    auto block = std::make_unique<Block>(free_blocks().take(bytes));
    if (!block->data) {
      *block = {c10::alloc_cpu(bytes), bytes};
      advise_huge_pages(block->data, bytes);
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

void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const Pages pages = pages_of(data, bytes, uintptr_t{2} << 20);
  madvise(pages.begin, pages.bytes, MADV_HUGEPAGE); // a hint: its failure changes nothing
#endif
}

} // namespace torch_maxpool::cpu
