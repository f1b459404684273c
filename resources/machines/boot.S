# Boot sector of the Intel machines: loads Linux without a boot loader, much faster than one.
#
# The host has laid the disk out (xtask/src/machine/disk.rs): after this sector come up to
# three extents, each to be copied to its place in memory before Linux is entered the way
# its 16-bit boot protocol asks for:
#   command line and real-mode code -> 0x8f000, the kernel -> 0x100000, the initramfs -> high
# The table at 0x1b0 has for each: first sector, sectors, address (32 bits each).
#
# build: as --32 boot.S -o boot.o; ld -m elf_i386 -Ttext 0x7c00 --oformat binary boot.o

        .set BOUNCE, 0x10000            # where the BIOS puts what it reads: below 1 MiB
        .set CHUNK, 120                 # sectors a call: 60 KiB, within one 64 KiB segment

        .code16
        .globl _start
_start: cli
        cld
        xor %ax,%ax
        mov %ax,%ds
        mov %ax,%es
        mov %ax,%ss
        mov $0x7c00,%sp
        mov %dl,drive                   # from the BIOS: the drive we came from
        in $0x92,%al                    # A20 on, or every odd MiB is a copy of an even one
        or $2,%al
        out %al,$0x92

        mov $table,%bp
chunk:  mov 4(%bp),%eax                 # sectors left of this extent
        test %eax,%eax
        jz done
        cmp $CHUNK,%eax
        jbe 1f
        mov $CHUNK,%eax
1:      mov %ax,packet+2
        movw $0,packet+4
        movw $(BOUNCE >> 4),packet+6
        mov (%bp),%ecx
        mov %ecx,packet+8
        add %eax,(%bp)
        sub %eax,4(%bp)
        push %eax
        push %bp                        # BIOSes are not to be trusted with it
        mov $0x42,%ah                   # extended read
        mov drive,%dl
        mov $packet,%si
        int $0x13
        pop %bp
        jc failed

        cli                             # the BIOS may have set IF
        lgdtl gdtr                      # "unreal" mode: ds and es keep the 4 GiB limits
        mov %cr0,%eax                   # they get from descriptors in protected mode
        or $1,%al
        mov %eax,%cr0
        mov $8,%bx
        mov %bx,%ds
        mov %bx,%es
        and $0xfe,%al
        mov %eax,%cr0
        xor %bx,%bx
        mov %bx,%ds
        mov %bx,%es
        pop %ecx
        shl $7,%ecx                     # sectors -> double words
        mov $BOUNCE,%esi
        mov 8(%bp),%edi
        addr32 rep movsl
        mov %edi,8(%bp)
        jmp chunk
done:   add $12,%bp
        cmp $table+36,%bp
        jb chunk

        mov $0x9000,%ax                 # boot protocol: all segments at the real-mode code,
        mov %ax,%ds                     # entry 0x20 paragraphs on, stack above the heap
        mov %ax,%es
        mov %ax,%fs
        mov %ax,%gs
        mov %ax,%ss
        mov $0xdf00,%sp
        ljmp $0x9020,$0

failed: mov $'F',%al                    # shows on the emulator's own output
        out %al,$0xe9
        hlt
        jmp failed

        .balign 8
gdt:    .quad 0, 0x00cf92000000ffff     # flat, writable, 4 GiB
gdtr:   .word 15
        .long gdt
packet: .byte 16,0
        .word 0,0,0                     # sectors, offset, segment
        .quad 0                         # first sector
drive:  .byte 0
        .org 0x1b0
table:  .fill 36,1,0
        .org 0x1fe
        .word 0xaa55
