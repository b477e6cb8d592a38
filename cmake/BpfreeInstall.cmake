# SPDX-License-Identifier: BSD-3-Clause
# The same tree in a prefix and in the wheel (there below bpfree_fast/):
#   include/bpfree/*.h   lib/libbpfree.so   lib/cmake/bpfree/   lib/pkgconfig/bpfree.pc

include(CMakePackageConfigHelpers)

if(bpfree_in_wheel)
  set(CMAKE_INSTALL_LIBDIR lib)
  set(CMAKE_INSTALL_INCLUDEDIR include)
else()
  include(GNUInstallDirs)
endif()

function(bpfree_install_library target include_folder)
  set(package_folder "${CMAKE_INSTALL_LIBDIR}/cmake/bpfree")
  set(generated "${CMAKE_CURRENT_BINARY_DIR}/install")

  install(TARGETS ${target} EXPORT bpfreeTargets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(DIRECTORY "${include_folder}/" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
          FILES_MATCHING PATTERN "*.h")
  install(EXPORT bpfreeTargets NAMESPACE bpfree:: DESTINATION "${package_folder}")

  configure_package_config_file(
    "${PROJECT_SOURCE_DIR}/cmake/bpfreeConfig.cmake.in" "${generated}/bpfreeConfig.cmake"
    INSTALL_DESTINATION "${package_folder}" NO_SET_AND_CHECK_MACRO)
  write_basic_package_version_file("${generated}/bpfreeConfigVersion.cmake"
                                   COMPATIBILITY SameMinorVersion)
  install(FILES "${generated}/bpfreeConfig.cmake" "${generated}/bpfreeConfigVersion.cmake"
          DESTINATION "${package_folder}")

  # Relative to the .pc file: a wheel does not know where it will be unpacked.
  file(RELATIVE_PATH bpfree_pc_prefix "/p/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/p")
  string(REGEX REPLACE "/$" "" bpfree_pc_prefix "${bpfree_pc_prefix}")
  configure_file("${PROJECT_SOURCE_DIR}/cmake/bpfree.pc.in" "${generated}/bpfree.pc" @ONLY)
  install(FILES "${generated}/bpfree.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endfunction()
