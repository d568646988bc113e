package bpf

// The objects are compiled by clang-16, see `make generate`, and committed: a host needs no compiler. Headers come from
// Debian's linux-libc-dev and libbpf-dev. The programs of sockets and of XDP are of an instruction set that 4.19 has, the
// others need 5.10 for other reasons.
//
// An object is known by its source and its flags: socket_all acts for every namespace, where the kernel can't tell a
// program whose socket it sees; forward is packet without services.
//
//go:generate go tool bpf2go -no-global-types -cc clang-16 -strip llvm-strip-16 -target bpfel -cflags "-O2 -mcpu=v2 -Wall -Werror -I/usr/include/x86_64-linux-gnu" socket socket.c
//go:generate go tool bpf2go -no-global-types -cc clang-16 -strip llvm-strip-16 -target bpfel -cflags "-O2 -mcpu=v2 -Wall -Werror -I/usr/include/x86_64-linux-gnu -DALL_NAMESPACES" socket_all socket.c
//go:generate go tool bpf2go -no-global-types -cc clang-16 -strip llvm-strip-16 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu" packet packet.c
//go:generate go tool bpf2go -no-global-types -cc clang-16 -strip llvm-strip-16 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu -DNO_SERVICES" forward packet.c
//go:generate go tool bpf2go -no-global-types -cc clang-16 -strip llvm-strip-16 -target bpfel -cflags "-O2 -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu" sweep sweep.c
//go:generate go tool bpf2go -no-global-types -cc clang-16 -strip llvm-strip-16 -target bpfel -cflags "-O2 -mcpu=v2 -Wall -Werror -I/usr/include/x86_64-linux-gnu" xdp xdp.c
