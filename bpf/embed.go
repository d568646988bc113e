package bpf

// The objects are compiled by clang-16, see `make generate`, and committed: a host needs no compiler. Headers come from
// Debian's linux-libc-dev and libbpf-dev.
//
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -cflags "-O2 -mcpu=v2 -Wall -Werror -I/usr/include/x86_64-linux-gnu" socket socket.c
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu" packet packet.c
