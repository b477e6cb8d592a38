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

# Move the per-ISA files of list_name that this architecture can run to isa_list, with their flags, and drop the others.
function(bpfree_isa_sources list_name isa_list)
  set(kept "${${list_name}}")
  set(moved "")
  foreach(isa scalar avx2 avx512 avx512bf16 neon)
    set(files "${kept}")
    list(FILTER files INCLUDE REGEX "_${isa}\\.cpp$")
    list(FILTER kept EXCLUDE REGEX "_${isa}\\.cpp$")
    if(files AND (isa STREQUAL "scalar" OR isa IN_LIST BPFREE_ISAS))
      set_property(SOURCE ${files} APPEND PROPERTY COMPILE_OPTIONS ${BPFREE_ISA_FLAGS_${isa}})
      list(APPEND moved ${files})
    endif()
  endforeach()
  set(${list_name} "${kept}" PARENT_SCOPE)
  set(${isa_list} "${moved}" PARENT_SCOPE)
endfunction()
