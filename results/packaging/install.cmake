# `cmake --install build --prefix DIR`, and the Debian packages that `cpack` makes of the same files:
# mmuscope (program, manual page, completion, recorded traces) and mmuscope-dev (libraries, headers,
# find_package(mmuscope)).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# What the program itself writes from its tables.
set(generated ${CMAKE_CURRENT_BINARY_DIR}/generated)
add_custom_command(OUTPUT ${generated}/mmuscope.1 ${generated}/mmuscope ${generated}/_mmuscope
  COMMAND ${CMAKE_COMMAND} -E make_directory ${generated}
  COMMAND mmuscope help --man > ${generated}/mmuscope.1
  COMMAND mmuscope help --completion bash > ${generated}/mmuscope
  COMMAND mmuscope help --completion zsh > ${generated}/_mmuscope
  DEPENDS mmuscope COMMENT "Writing the manual page and the shells' completion" VERBATIM)
add_custom_target(manual ALL DEPENDS ${generated}/mmuscope.1)

set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME program)
install(TARGETS mmuscope RUNTIME COMPONENT program)
install(FILES ${generated}/mmuscope.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${generated}/mmuscope DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${generated}/_mmuscope DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
install(DIRECTORY workloads/trace/recorded
  DESTINATION ${CMAKE_INSTALL_DATADIR}/mmuscope/workloads/trace FILES_MATCHING PATTERN "*.mmt")
install(DIRECTORY results/labs DESTINATION ${CMAKE_INSTALL_DATADIR}/mmuscope/results
  REGEX "/labs/[^/]+\\.(h|cpp)$" EXCLUDE)
install(DIRECTORY results/slurm DESTINATION ${CMAKE_INSTALL_DATADIR}/mmuscope/results
  USE_SOURCE_PERMISSIONS)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)

set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME dev)
set(libraries core shadow nested workloads results agreement)
foreach(library ${libraries})
  set_target_properties(mmuscope_${library} PROPERTIES EXPORT_NAME ${library})
  list(APPEND targets mmuscope_${library})
endforeach()
install(TARGETS mmuscope_options ${targets} EXPORT mmuscopeTargets ARCHIVE COMPONENT dev)
install(DIRECTORY core shadow nested workloads results
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mmuscope FILES_MATCHING
  REGEX "/results/labs/[^/.]+$" EXCLUDE PATTERN "*.h")
install(FILES tests/support/agreement.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mmuscope/tests/support)
# The package works from the build tree, too: the lab with a pager of one's own needs no installing.
export(EXPORT mmuscopeTargets NAMESPACE mmuscope:: FILE mmuscopeTargets.cmake)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/mmuscope)
install(EXPORT mmuscopeTargets NAMESPACE mmuscope:: DESTINATION ${package})
configure_package_config_file(results/packaging/mmuscopeConfig.cmake.in mmuscopeConfig.cmake
  INSTALL_DESTINATION ${package})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/mmuscopeConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mmuscopeConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/mmuscopeConfigVersion.cmake DESTINATION ${package})
unset(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VENDOR "The mmuscope authors")
set(CPACK_PACKAGE_CONTACT "The mmuscope authors <mmuscope@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Shadow and nested paging, emulated and counted")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL program dev)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME mmuscope)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_DEV_PACKAGE_NAME mmuscope-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(boost ${Boost_VERSION_MAJOR}.${Boost_VERSION_MINOR})
string(JOIN ", " CPACK_DEBIAN_DEV_PACKAGE_DEPENDS libboost${boost}-dev
  libboost-program-options${boost}-dev libboost-context${boost}-dev libfmt-dev libzstd-dev
  zlib1g-dev nlohmann-json3-dev libxxhash-dev pkgconf)
include(CPack)
