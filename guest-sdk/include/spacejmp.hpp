// spacejmp.hpp: spaces for C++ programs that run under `spacejmp`.
//
// A space is a versioned address space with a heap and a root object of one type. What is in it are
// ordinary objects with ordinary pointers between them; the next program finds them as they are. C++17
// with GCC or Clang and libspacejmp.a (see spacejmp.h):
//
//     c++ -std=c++17 -static -I guest-sdk/include program.cpp -lspacejmp
//
//     struct account { sj::string owner; std::int64_t cents = 0; };
//     SJ_FIELDS(account, owner, cents)
//     struct bank { sj::map<sj::string, account> accounts; };
//     SJ_FIELDS(bank, accounts)
//
//     auto space = sj::space<bank>::open_or_create("bank");
//     space.write([](bank &b) { b.accounts["Emma"].cents += 100; });       // one transaction
//     auto cents = space.read([](const bank &b) { return b.accounts.at("Emma").cents; });
//
// What throws inside `write` has changed nothing. What may be stored is checked at compile time, and the
// root's type when a space is opened. What the compiler cannot check: a reference, iterator or pointer into
// a space is valid only until the visit ends that it was got in. The book's page cxx.md says more.
#ifndef SPACEJMP_HPP
#define SPACEJMP_HPP

#if !defined(__cplusplus) || __cplusplus < 201703L
#error "spacejmp.hpp needs C++17: -std=c++17"
#endif
#ifdef SPACEJMP_HEADER_ONLY
#error "spacejmp.hpp needs the heap: link with libspacejmp.a instead of SPACEJMP_HEADER_ONLY"
#endif

#include <spacejmp.h>

#include <spacejmp/allocator.hpp>
#include <spacejmp/containers.hpp>
#include <spacejmp/directory.hpp>
#include <spacejmp/error.hpp>
#include <spacejmp/pointer.hpp>
#include <spacejmp/scratch.hpp>
#include <spacejmp/space.hpp>
#include <spacejmp/storable.hpp>

#endif
