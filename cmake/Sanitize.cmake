# Instruments everything that is built after this is included.
set(TORCH_MAXPOOL_SANITIZE "" CACHE STRING "What -fsanitize is given: address,undefined or thread; for libFuzzer \
(clang) also fuzzer-no-link")

if(TORCH_MAXPOOL_SANITIZE)
  # vptr needs type information that PyTorch's libraries do not share. pointer-overflow: the kernels add to the null
  # that stands for offsets which are not wanted, and never use the sum. null, object-size: what they find here,
  # AddressSanitizer finds too.
  set(sanitize -fsanitize=${TORCH_MAXPOOL_SANITIZE} -fno-sanitize=vptr,pointer-overflow,null,object-size
               -fno-sanitize-recover=all)
  add_compile_options(-O0 -g0 -fno-omit-frame-pointer ${sanitize})
  add_link_options(${sanitize})
  # For a file of kernels with address and undefined in one, clang takes 10 GB and three times as long as for the two in
  # turn. tests/cpp/kernels is built for undefined alone.
  if(TORCH_MAXPOOL_SANITIZE MATCHES "address")
    set(kernels_sanitize -fno-sanitize=undefined)
  endif()
endif()
