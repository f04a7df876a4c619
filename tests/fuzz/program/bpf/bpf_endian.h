/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* In place of libbpf's header of this name, for a machine of little endian. */
#ifndef HOST_BPF_ENDIAN_H
#define HOST_BPF_ENDIAN_H

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the words of the host are turned");

#define bpf_htons(word) __builtin_bswap16(word)
#define bpf_ntohs(word) __builtin_bswap16(word)
#define bpf_htonl(word) __builtin_bswap32(word)
#define bpf_ntohl(word) __builtin_bswap32(word)

#endif
