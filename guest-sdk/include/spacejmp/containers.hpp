// The standard library's containers with the allocator of spaces, and a hash that stays the same.
#ifndef SPACEJMP_CONTAINERS_HPP
#define SPACEJMP_CONTAINERS_HPP

#include <cstdint>
#include <cstring>
#include <deque>
#include <forward_list>
#include <functional>
#include <list>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <spacejmp/allocator.hpp>

#if defined(_GLIBCXX_USE_CXX11_ABI) && !_GLIBCXX_USE_CXX11_ABI
#error "spacejmp.hpp needs _GLIBCXX_USE_CXX11_ABI=1: an old string's empty text lies in the program"
#endif

namespace sj {
namespace detail {

// A bijection whose result depends on all bits (SplitMix64's finaliser).
constexpr std::uint64_t mix(std::uint64_t bits) noexcept {
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    return bits ^ (bits >> 31);
}

inline std::uint64_t hash_bytes(const char *bytes, std::size_t count) noexcept {
    std::uint64_t state = mix(count + 1);
    for (; count >= 8; bytes += 8, count -= 8) {
        std::uint64_t word;
        std::memcpy(&word, bytes, 8);
        state = mix(state ^ word);
    }
    std::uint64_t last = 0;
    std::memcpy(&last, bytes, count);
    return mix(state ^ last);
}

} // namespace detail

// std::hash may differ from one library to the next, and is seeded in some; where an element lies must
// not depend on the program that looks for it. Numbers, enumerations, texts, pairs of these.
template <class T, class = void> struct hash;

template <class T> struct hash<T, std::enable_if_t<std::is_integral_v<T> || std::is_enum_v<T>>> {
    std::size_t operator()(T value) const noexcept { return detail::mix(static_cast<std::uint64_t>(value)); }
};

template <class T>
struct hash<T, std::enable_if_t<std::is_convertible_v<const T &, std::string_view>>> {
    std::size_t operator()(std::string_view text) const noexcept {
        return detail::hash_bytes(text.data(), text.size());
    }
};

template <class A, class B> struct hash<std::pair<A, B>, void> {
    std::size_t operator()(const std::pair<A, B> &both) const noexcept {
        return detail::mix(hash<A>()(both.first) ^ detail::mix(hash<B>()(both.second)));
    }
};

using string = std::basic_string<char, std::char_traits<char>, allocator<char>>;
template <class T> using vector = std::vector<T, allocator<T>>;
template <class T> using deque = std::deque<T, allocator<T>>;
template <class T> using list = std::list<T, allocator<T>>;
template <class T> using forward_list = std::forward_list<T, allocator<T>>;
// With std::less<>, texts are looked up by std::string_view or a literal, without a string of the space.
template <class T, class Compare = std::less<>> using set = std::set<T, Compare, allocator<T>>;
template <class T, class Compare = std::less<>> using multiset = std::multiset<T, Compare, allocator<T>>;
template <class Key, class T, class Compare = std::less<>>
using map = std::map<Key, T, Compare, allocator<std::pair<const Key, T>>>;
template <class Key, class T, class Compare = std::less<>>
using multimap = std::multimap<Key, T, Compare, allocator<std::pair<const Key, T>>>;
template <class T, class Hash = hash<T>, class Equal = std::equal_to<>>
using unordered_set = std::unordered_set<T, Hash, Equal, allocator<T>>;
template <class Key, class T, class Hash = hash<Key>, class Equal = std::equal_to<>>
using unordered_map = std::unordered_map<Key, T, Hash, Equal, allocator<std::pair<const Key, T>>>;

} // namespace sj

#endif
