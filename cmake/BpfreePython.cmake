# SPDX-License-Identifier: BSD-3-Clause
# The Python module _core, and the Cython module when its source is there.

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 3.0 CONFIG REQUIRED)

file(GLOB binding_sources CONFIGURE_DEPENDS "${csrc}/bindings/*.cpp")
if(binding_sources)
  # NO_EXTRAS: no link-time optimization, see the top file.
  pybind11_add_module(_core MODULE NO_EXTRAS ${binding_sources})
  target_link_libraries(_core PRIVATE bpfree_core bpfree_flags)
  target_link_options(_core PRIVATE "-Wl,--exclude-libs,ALL")
  install(TARGETS _core LIBRARY DESTINATION .)
endif()

# Cython's generated C++ is not ours: it gets no warning flags.
set(cython_source "${PROJECT_SOURCE_DIR}/bpfree_fast/cython_kernels.pyx")
if(EXISTS "${cython_source}" AND TARGET bpfree)
  set(cython_output "${CMAKE_CURRENT_BINARY_DIR}/cython_kernels.cpp")
  add_custom_command(
    OUTPUT "${cython_output}"
    COMMAND Python::Interpreter -m cython -3 --cplus "${cython_source}" -o "${cython_output}"
    DEPENDS "${cython_source}"
    VERBATIM)
  Python_add_library(cython_kernels MODULE WITH_SOABI "${cython_output}")
  target_link_libraries(cython_kernels PRIVATE bpfree)
  set_target_properties(cython_kernels PROPERTIES INSTALL_RPATH "$ORIGIN/lib")
  install(TARGETS cython_kernels LIBRARY DESTINATION .)
endif()
