# Read by llama.cpp's build right after `project(ggml)`: `.cargo/config.toml` names this file.

# Layers on other machines. It needs sockets only. Data over RDMA would go around the encrypted stream.
set(GGML_RPC ON CACHE BOOL "" FORCE)
set(GGML_RPC_RDMA OFF CACHE BOOL "" FORCE)

if(GGML_BACKEND_DL)
    # The bindings ask for the building machine's instructions whenever rustc does; ggml refuses
    # that together with libraries for every CPU.
    set(GGML_NATIVE OFF CACHE BOOL "" FORCE)

    # The file that makes ggml prefer modelve's own kernels becomes part of every CPU library.
    set(modelve_kernels "${CMAKE_CURRENT_LIST_DIR}/../crates/matmul/src/ggml.cpp")
    function(modelve_add_kernels)
        get_property(targets DIRECTORY src PROPERTY BUILDSYSTEM_TARGETS)
        list(FILTER targets INCLUDE REGEX "^ggml-cpu")
        list(FILTER targets EXCLUDE REGEX "-feats$")
        foreach(target IN LISTS targets)
            target_sources(${target} PRIVATE "${modelve_kernels}")
        endforeach()
    endfunction()
    if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.19)
        cmake_language(DEFER CALL modelve_add_kernels)
    endif()

    # Builds one CPU library instead of all, to save time when only a GPU's library is needed.
    if("$ENV{MODELVE_CPU_VARIANTS}" STREQUAL "one")
        set(GGML_CPU_ALL_VARIANTS OFF CACHE BOOL "" FORCE)
    endif()

    # A relative path, so that no path of this machine gets into libraries for other machines. It
    # is a STRING because cmake would make a PATH absolute.
    set(GGML_BACKEND_DIR "backends" CACHE STRING "" FORCE)

    # A part of llama.cpp that fetches models would be linked with the machine's OpenSSL.
    set(LLAMA_OPENSSL OFF CACHE BOOL "" FORCE)

    # Libraries find each other in their own folder.
    if(APPLE)
        set(CMAKE_INSTALL_RPATH "@loader_path" CACHE STRING "" FORCE)
    else()
        set(CMAKE_INSTALL_RPATH "$ORIGIN" CACHE STRING "" FORCE)
    endif()
endif()

# ggml's AMX kernels for repacked weights end the process by SIGSEGV (seen on Sapphire Rapids with
# K types and more than one column), so a build for this machine does without them; weights in
# place never use them.
if(NOT GGML_BACKEND_DL AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    include(CheckCXXCompilerFlag)
    check_cxx_compiler_flag(-mno-amx-tile MODELVE_KNOWS_AMX)
    if(MODELVE_KNOWS_AMX)
        add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
    endif()
endif()

# llama.cpp's library for its own command-line programs takes as long to compile as llama.cpp
# itself. llama-cpp-2 asks for it by llama-cpp-sys-2's default features, and nothing here uses it.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)

# In development builds, llama.cpp's code that builds graphs and reads files is compiled quickly.
# ggml, which computes, is always optimized. Cargo sets PROFILE for build scripts.
if("$ENV{PROFILE}" STREQUAL "debug" AND NOT MSVC AND CMAKE_VERSION VERSION_GREATER_EQUAL 3.19)
    function(modelve_compile_fast)
        target_compile_options(llama PRIVATE -O1)
    endfunction()
    cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL modelve_compile_fast)
endif()

if(GGML_VULKAN)
    # Adds to the Vulkan headers of distributions that are older than llama.cpp requires.
    include_directories(BEFORE "${CMAKE_CURRENT_LIST_DIR}/vulkan-compat")
endif()
