# SPDX-License-Identifier: BSD-3-Clause
# Instruction sets: a file's name says what it is compiled for.
#   *_scalar.cpp              every architecture, no extra flags
#   *_avx2 _avx512 _avx512bf16   x86-64 only
#   *_neon.cpp                aarch64 only (part of its baseline, so no flags)
# Everything else is built at the floor of the ABI.

set(BPFREE_ISA_FLAGS_avx2 -mavx2 -mfma)
set(BPFREE_ISA_FLAGS_avx512 ${BPFREE_ISA_FLAGS_avx2} -mavx512f -mavx512dq -mavx512bw -mavx512vl
                            -mprefer-vector-width=512)
set(BPFREE_ISA_FLAGS_avx512bf16 ${BPFREE_ISA_FLAGS_avx512} -mavx512bf16)
set(BPFREE_ISA_FLAGS_neon "")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(BPFREE_ISAS avx2 avx512 avx512bf16)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(BPFREE_ISAS neon)
else()
  set(BPFREE_ISAS "")
endif()

# Give each per-ISA file of the list its flags, and drop those of other architectures.
function(bpfree_isa_sources list_name)
  set(sources "${${list_name}}")
  foreach(isa avx2 avx512 avx512bf16 neon)
    set(files "${sources}")
    list(FILTER files INCLUDE REGEX "_${isa}\\.cpp$")
    if(isa IN_LIST BPFREE_ISAS)
      set_property(SOURCE ${files} APPEND PROPERTY COMPILE_OPTIONS ${BPFREE_ISA_FLAGS_${isa}})
    elseif(files)
      list(REMOVE_ITEM sources ${files})
    endif()
  endforeach()
  set(${list_name} "${sources}" PARENT_SCOPE)
endfunction()
