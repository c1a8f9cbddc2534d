// Memory for large results.
#pragma once

#include <c10/core/Allocator.h>

namespace torch_maxpool::cpu {

// Results of this many bytes: malloc may give their memory back to the system at every release, and the kernel then clears
// it page by page for the next, which takes longer than pooling.
inline constexpr size_t kLargeResult = size_t{1} << 20;

// Gives blocks of kLargeResult bytes and more, the largest in huge pages where it can, and keeps the last that were freed
// for the next results of about their size: of those below 32 MiB 16 at most and 64 MiB in all, as much as malloc itself
// may keep; of larger ones two and 512 MiB, marked as free to take back for the system, should memory run short. All of
// it is given up before an allocation fails here.
c10::Allocator* large_results();

} // namespace torch_maxpool::cpu
