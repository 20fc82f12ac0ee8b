# SPDX-License-Identifier: GPL-2.0-or-later
"""Print a C program whose allocating function has a mangled name that doubles at each level when
demangled.

Run: python3 demangler_bomb.py 30 >b.c && cc -O0 -fno-omit-frame-pointer -o b b.c && ./b & memleak
  -p $! -o 0 1 1
Right: the report within a second, the name cut or left mangled, Ctrl-C works.  (320 bytes of name
  would become gigabytes.)
"""

import sys


def back_reference(number):
    digits, text = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", ""
    if number == 0:
        return "S_"
    number -= 1
    while True:
        text = digits[number % 36] + text
        number //= 36
        if number == 0:
            return "S" + text + "_"


def bomb(levels):
    name, previous, following = "_Z1f1A", 0, 1
    for level in range(levels):
        name += "1" + chr(97 + level % 26) + "I" + back_reference(previous) * 2 + "E"
        previous, following = following + 1, following + 2
    return name


PROGRAM = """#include <stdlib.h>
#include <unistd.h>
void *leak(int n) asm("%s");
__attribute__((noinline)) void *leak(int n) { char *p = malloc(n); p[0] = 1; return p; }
int main(void) { for (;;) { leak(100); usleep(2000); } }"""

if __name__ == "__main__":
    print(PROGRAM % bomb(int(sys.argv[1])))
