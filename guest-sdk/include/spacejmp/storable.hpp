// What may be in a space, decided at compile time, and the fields of structures.
//
// A stored object outlives the program that made it. So it has no pointer to anything else: no raw pointer
// (sj::vas_ptr), no memory of the program's (std::string with its usual allocator), no virtual
// functions (their table lies in the program). C++17 does not tell what a structure consists of; SJ_FIELDS
// does, and is refused where it leaves a field out.
#ifndef SPACEJMP_STORABLE_HPP
#define SPACEJMP_STORABLE_HPP

#include <array>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstddef>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include <spacejmp/containers.hpp>
#include <spacejmp/pointer.hpp>

namespace sj {

// Says of a class, which has other rules than SJ_FIELDS can tell, that it may be stored:
//     template <> inline constexpr bool sj::stores<polygon> = true;
// It has no pointers but into its own space. Its layout is then known by its name and size only.
template <class T> inline constexpr bool stores = false;

// A field, as SJ_FIELDS lists it.
template <class T> struct field {
    using type = T;
    const char *name;
    std::size_t offset;
};

// The fields of a structure, and its name.
template <class... Types> struct field_list {
    const char *name;
    std::tuple<field<Types>...> fields;
};

template <class... Types>
constexpr field_list<Types...> make_field_list(const char *name, field<Types>... fields) {
    return {name, std::tuple<field<Types>...>(fields...)};
}

namespace detail {

template <class T, class = void> struct has_fields : std::false_type {};
template <class T>
struct has_fields<T, std::void_t<decltype(sj_fields(static_cast<const T *>(nullptr)))>> : std::true_type {};

template <class T> struct is_array : std::false_type {};
template <class T, std::size_t N> struct is_array<T[N]> : std::true_type {
    using element = T;
    static constexpr std::size_t count = N;
};
template <class T, std::size_t N> struct is_array<std::array<T, N>> : is_array<T[N]> {};

template <class T> struct is_vas_ptr : std::false_type {};
template <class T> struct is_vas_ptr<vas_ptr<T>> : std::true_type { using target = T; };
template <class T> struct is_owner : std::false_type {};
template <class T> struct is_owner<std::unique_ptr<T, deleter<T>>> : std::true_type { using target = T; };

// Values that have parts of these types in them, whose layout is the library's.
template <class T> struct parts_of { static constexpr bool known = false; };
template <class... Parts> struct parts {
    static constexpr bool known = true;
    using list = std::tuple<Parts...> *;
};
template <class A, class B> struct parts_of<std::pair<A, B>> : parts<A, B> {};
template <class... Types> struct parts_of<std::tuple<Types...>> : parts<Types...> {};
template <class T> struct parts_of<std::optional<T>> : parts<T> {};
template <class... Types> struct parts_of<std::variant<Types...>> : parts<Types...> {};
template <class T> struct parts_of<std::complex<T>> : parts<T> {};
template <> struct parts_of<std::monostate> : parts<> {};
template <std::size_t N> struct parts_of<std::bitset<N>> : parts<> {};
template <class Rep, class Period> struct parts_of<std::chrono::duration<Rep, Period>> : parts<Rep> {};
template <class Clock, class Duration>
struct parts_of<std::chrono::time_point<Clock, Duration>> : parts<Duration> {};

template <class T, class = void> struct has_allocator : std::false_type {};
template <class T> struct has_allocator<T, std::void_t<typename T::allocator_type>> : std::true_type {};
template <class T> struct is_ours : std::false_type {};
template <class T> struct is_ours<allocator<T>> : std::true_type {};

// Functions that a container keeps: only those that are nothing but their type.
template <class T, class = void> struct orders_statelessly : std::true_type {};
template <class T>
struct orders_statelessly<T, std::void_t<typename T::key_compare>> : std::is_empty<typename T::key_compare> {};
template <class T, class = void> struct hashes_statelessly : std::true_type {};
template <class T>
struct hashes_statelessly<T, std::void_t<typename T::hasher, typename T::key_equal>>
    : std::conjunction<std::is_empty<typename T::hasher>, std::is_empty<typename T::key_equal>> {};

template <class T> inline constexpr bool refused = false;

// Does not compile if a `T` may not be stored, and says why. `Seen` are types that it is part of: those
// that refer to themselves are looked at once.
template <class T, class... Seen> constexpr bool must_be_storable();

template <class... Seen, class... Parts> constexpr bool all_storable(std::tuple<Parts...> *) {
    return (must_be_storable<std::remove_const_t<Parts>, Seen...>() && ... && true);
}

template <class... Seen, class... Types> constexpr bool fields_storable(const field_list<Types...> *) {
    return (must_be_storable<Types, Seen...>() && ... && true);
}

template <class T, class... Seen> constexpr bool must_be_storable() {
    if constexpr ((std::is_same_v<T, Seen> || ...)) {
        return true;
    } else if constexpr (std::is_pointer_v<T> || std::is_member_pointer_v<T> || std::is_reference_v<T> ||
                         std::is_null_pointer_v<T>) {
        static_assert(refused<T>, "a raw pointer or reference cannot be stored: use sj::vas_ptr");
    } else if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>) {
        return true;
    } else if constexpr (is_array<T>::value) {
        return must_be_storable<typename is_array<T>::element, Seen...>();
    } else if constexpr (is_vas_ptr<T>::value) {
        return must_be_storable<std::remove_const_t<typename is_vas_ptr<T>::target>, Seen...>();
    } else if constexpr (is_owner<T>::value) {
        return must_be_storable<typename is_owner<T>::target, Seen...>();
    } else if constexpr (parts_of<T>::known) {
        return all_storable<T, Seen...>(typename parts_of<T>::list());
    } else if constexpr (has_allocator<T>::value) {
        static_assert(is_ours<typename T::allocator_type>::value,
                      "its memory would be the program's own: use sj::string, sj::vector, sj::map, ..., "
                      "or sj::allocator");
        static_assert(orders_statelessly<T>::value && hashes_statelessly<T>::value,
                      "a comparison or hash with state cannot be stored: it may lead into the program");
        return must_be_storable<std::remove_const_t<typename T::value_type>, T, Seen...>();
    } else if constexpr (std::is_polymorphic_v<T>) {
        static_assert(refused<T>, "virtual functions cannot be stored: their table lies in the program");
    } else if constexpr (has_fields<T>::value) {
        return fields_storable<T, Seen...>(
            static_cast<const decltype(sj_fields(static_cast<const T *>(nullptr))) *>(nullptr));
    } else {
        static_assert(stores<T>, "say what it consists of: SJ_FIELDS(type, field, ...)");
        return true;
    }
    return false;
}

// Whether these fields, in the order of their offsets, leave no more free than alignment does.
template <class Object, class... Types> constexpr bool covers(const field_list<Types...> &list) {
    std::size_t end = 0;
    bool covered = true;
    auto next = [&](std::size_t offset, std::size_t size, std::size_t alignment) {
        covered = covered && offset >= end && offset - end < alignment;
        end = offset + size;
    };
    std::apply([&](const auto &...fields) { (next(fields.offset, sizeof(Types), alignof(Types)), ...); },
               list.fields);
    return covered && sizeof(Object) >= end && sizeof(Object) - end < alignof(Object);
}

// What a visit returns is used at home. References are refused, and what has memory of the space or
// leads there.
template <class T> constexpr bool may_leave() {
    static_assert(!std::is_reference_v<T> && !std::is_pointer_v<T> && !is_vas_ptr<T>::value &&
                      !is_owner<T>::value,
                  "a visit cannot return what leads into the space: return a copy");
    if constexpr (has_allocator<T>::value)
        static_assert(!is_ours<typename T::allocator_type>::value,
                      "a visit cannot return memory of the space: copy it to a std::string, std::vector, ...");
    return true;
}

} // namespace detail
} // namespace sj

#define SJ_DETAIL_FIELD(member) \
    ::sj::field<decltype(sj_object::member)> { #member, offsetof(sj_object, member) }

// SJ_FIELDS(type, field, ...): all fields of a structure, in their order, where it was declared and in its
// namespace; up to 32. A structure has no base classes, bit fields or references.
#define SJ_FIELDS(type, ...)                                                                           \
    _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Winvalid-offsetof\"")            \
    [[maybe_unused]] constexpr auto sj_fields(const type *) {                                          \
        using sj_object = type;                                                                        \
        return ::sj::make_field_list(#type, SJ_DETAIL_EACH(SJ_DETAIL_FIELD, __VA_ARGS__));             \
    }                                                                                                  \
    _Pragma("GCC diagnostic pop")                                                                      \
    static_assert(::sj::detail::covers<type>(sj_fields(static_cast<const type *>(nullptr))),           \
                  "SJ_FIELDS(" #type ", ...) leaves a field out, or has another order");

#define SJ_DETAIL_COUNT(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, _17,    \
                        _18, _19, _20, _21, _22, _23, _24, _25, _26, _27, _28, _29, _30, _31, _32, n,  \
                        ...)                                                                           \
    n
#define SJ_DETAIL_JOIN2(a, b) a##b
#define SJ_DETAIL_JOIN(a, b) SJ_DETAIL_JOIN2(a, b)
#define SJ_DETAIL_EACH(m, ...)                                                                         \
    SJ_DETAIL_JOIN(SJ_DETAIL_EACH_,                                                                    \
                   SJ_DETAIL_COUNT(__VA_ARGS__, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20,    \
                                   19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1,  \
                                   0))                                                                 \
    (m, __VA_ARGS__)
#define SJ_DETAIL_EACH_1(m, a) m(a)
#define SJ_DETAIL_EACH_2(m, a, ...) m(a), SJ_DETAIL_EACH_1(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_3(m, a, ...) m(a), SJ_DETAIL_EACH_2(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_4(m, a, ...) m(a), SJ_DETAIL_EACH_3(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_5(m, a, ...) m(a), SJ_DETAIL_EACH_4(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_6(m, a, ...) m(a), SJ_DETAIL_EACH_5(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_7(m, a, ...) m(a), SJ_DETAIL_EACH_6(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_8(m, a, ...) m(a), SJ_DETAIL_EACH_7(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_9(m, a, ...) m(a), SJ_DETAIL_EACH_8(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_10(m, a, ...) m(a), SJ_DETAIL_EACH_9(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_11(m, a, ...) m(a), SJ_DETAIL_EACH_10(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_12(m, a, ...) m(a), SJ_DETAIL_EACH_11(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_13(m, a, ...) m(a), SJ_DETAIL_EACH_12(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_14(m, a, ...) m(a), SJ_DETAIL_EACH_13(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_15(m, a, ...) m(a), SJ_DETAIL_EACH_14(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_16(m, a, ...) m(a), SJ_DETAIL_EACH_15(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_17(m, a, ...) m(a), SJ_DETAIL_EACH_16(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_18(m, a, ...) m(a), SJ_DETAIL_EACH_17(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_19(m, a, ...) m(a), SJ_DETAIL_EACH_18(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_20(m, a, ...) m(a), SJ_DETAIL_EACH_19(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_21(m, a, ...) m(a), SJ_DETAIL_EACH_20(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_22(m, a, ...) m(a), SJ_DETAIL_EACH_21(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_23(m, a, ...) m(a), SJ_DETAIL_EACH_22(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_24(m, a, ...) m(a), SJ_DETAIL_EACH_23(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_25(m, a, ...) m(a), SJ_DETAIL_EACH_24(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_26(m, a, ...) m(a), SJ_DETAIL_EACH_25(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_27(m, a, ...) m(a), SJ_DETAIL_EACH_26(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_28(m, a, ...) m(a), SJ_DETAIL_EACH_27(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_29(m, a, ...) m(a), SJ_DETAIL_EACH_28(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_30(m, a, ...) m(a), SJ_DETAIL_EACH_29(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_31(m, a, ...) m(a), SJ_DETAIL_EACH_30(m, __VA_ARGS__)
#define SJ_DETAIL_EACH_32(m, a, ...) m(a), SJ_DETAIL_EACH_31(m, __VA_ARGS__)

#endif
