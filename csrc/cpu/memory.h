// Memory for large results.
#pragma once

#include <c10/core/Allocator.h>

namespace torch_maxpool::cpu {

// Results of this many bytes: malloc maps memory of this size anew for each, and the kernel clears it page by page, which
// takes longer than pooling.
inline constexpr size_t kLargeResult = size_t{32} << 20;

// Gives blocks of kLargeResult bytes and more, in huge pages where it can, and keeps the last few that were freed for the
// next results of about their size. What it keeps is marked as free to take back for the system, should memory run short.
c10::Allocator* large_results();

// Asks for huge pages: most of the time that new memory takes goes into page faults.
void advise_huge_pages(void* data, size_t bytes);

} // namespace torch_maxpool::cpu
