# Builds for this kind of machine and older ones; read by scripts/package and scripts/wheel, which
# define `fail`.
#
# On Linux what is built is linked against the C and C++ library of Debian 11 (glibc 2.31, as in
# Ubuntu 20.04; RHEL 9 is younger), which debootstrap puts into .tools once; that takes root. The
# compiler is this machine's, because old compilers do not support new CPUs.
# shellcheck shell=bash

# An old Debian's libraries, and links in it that mean them and not this machine's.
make_sysroot() {
    [ ! -e "$1/made" ] || return 0
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    command -v debootstrap >/dev/null || fail "debootstrap is missing; install it with the package manager"
    echo "putting Debian 11's libraries into $1" >&2
    "${sudo[@]}" debootstrap --variant=minbase --include=libc6-dev,libstdc++-10-dev bullseye "$1" >"$1.log"
    "${sudo[@]}" chown -R "$(id -u)" "$1"
    find "$1" -type l -lname '/*' | while IFS= read -r link; do
        ln -sfnr "$1$(readlink "$link")" "$link"
    done
    touch "$1/made"
}

# build_portable PROFILE ARGUMENT…: builds with cargo and these arguments. Sets `built`, the folder
# with what was built; on Linux also `sysroot` and `triple`, Debian's name for the machine.
build_portable() {
    local profile=$1 host common cxx flag
    shift
    host=$(rustc -vV | sed -n 's/^host: //p')
    sysroot=
    triple=
    # This machine's vector instructions are not for the program itself; its libraries are.
    export RUSTFLAGS='-C strip=debuginfo'
    if [[ $host == *-linux-gnu ]]; then
        sysroot=$PWD/.tools/sysroot
        mkdir -p .tools
        make_sysroot "$sysroot"
        triple=${host%%-*}-linux-gnu
        common="--sysroot=$sysroot -B$sysroot/usr/lib/$triple -isystem $sysroot/usr/include/$triple"
        cxx="-nostdinc++ -isystem $sysroot/usr/include/c++/10 -isystem $sysroot/usr/include/$triple/c++/10"
        local libraries=("-L$sysroot/usr/lib/gcc/$triple/10" "-L$sysroot/usr/lib/$triple" "-L$sysroot/lib/$triple")
        # With a target named, flags are for the program and not for the tools of the build.
        export "CFLAGS_${host//-/_}=$common" "CXXFLAGS_${host//-/_}=$cxx $common"
        export LDFLAGS="${libraries[*]}"
        for flag in "--sysroot=$sysroot" "-B$sysroot/usr/lib/$triple" "${libraries[@]}"; do
            RUSTFLAGS="$RUSTFLAGS -C link-arg=$flag"
        done
    fi
    cargo build --locked --profile "$profile" --target "$host" --features portable "$@"
    built=${CARGO_TARGET_DIR:-target}/$host
    case $profile in dev) built=$built/debug ;; *) built=$built/$profile ;; esac
}

# Checks that no file asks for a younger C library, or names a folder of this machine to load from.
check_portable() {
    local file newest paths
    [[ -n $triple ]] && command -v readelf >/dev/null || return 0
    for file in "$@"; do
        newest=$(readelf -W --version-info "$file" | grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -n 1)
        printf '%s\n' GLIBC_2.31 "$newest" | sort -CV -r || fail "$file needs $newest"
        paths=$(readelf -Wd "$file" | sed -n 's/.*R.*PATH).*\[\(.*\)\]/\1/p' | tr ':' '\n')
        # shellcheck disable=SC2016 # the linker's word
        if grep -v '^\$ORIGIN' <<<"$paths" | grep -q .; then fail "$file looks for libraries in $paths"; fi
    done
}
