// Descriptions of stored types, which are kept with a root object: a program whose types differ is refused
// instead of reading nonsense.
//
// Structures with SJ_FIELDS, numbers, arrays and pointers are described as spacejmp.h does, so that C and Rust
// have the same description of the same layout. What belongs to the C++ library (containers, pairs,
// optionals) has the library's ABI in its name. Namespaces of a program do not count.
#ifndef SPACEJMP_TYPE_HPP
#define SPACEJMP_TYPE_HPP

#include <spacejmp.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <vector>

#include <spacejmp/storable.hpp>

namespace sj {
namespace detail {

#define SJ_DETAIL_TEXT2(x) #x
#define SJ_DETAIL_TEXT(x) SJ_DETAIL_TEXT2(x)
#if defined(_LIBCPP_ABI_VERSION)
inline constexpr const char *library_abi = "libc++ " SJ_DETAIL_TEXT(_LIBCPP_ABI_VERSION);
#elif defined(__GLIBCXX__) && defined(_GLIBCXX_DEBUG)
inline constexpr const char *library_abi = "libstdc++ cxx11 debug";
#elif defined(__GLIBCXX__)
inline constexpr const char *library_abi = "libstdc++ cxx11";
#else
#error "spacejmp.hpp knows libstdc++ and libc++"
#endif

// Names of the library's templates; none for others.
template <class T> struct template_name { static constexpr const char *value = nullptr; };
#define SJ_DETAIL_NAME(name) \
    template <class... Args> struct template_name<std::name<Args...>> { \
        static constexpr const char *value = "std::" #name; \
    }
SJ_DETAIL_NAME(basic_string);
SJ_DETAIL_NAME(vector);
SJ_DETAIL_NAME(deque);
SJ_DETAIL_NAME(list);
SJ_DETAIL_NAME(forward_list);
SJ_DETAIL_NAME(set);
SJ_DETAIL_NAME(multiset);
SJ_DETAIL_NAME(map);
SJ_DETAIL_NAME(multimap);
SJ_DETAIL_NAME(unordered_set);
SJ_DETAIL_NAME(unordered_multiset);
SJ_DETAIL_NAME(unordered_map);
SJ_DETAIL_NAME(unordered_multimap);
SJ_DETAIL_NAME(pair);
SJ_DETAIL_NAME(tuple);
SJ_DETAIL_NAME(optional);
SJ_DETAIL_NAME(variant);
SJ_DETAIL_NAME(complex);
#undef SJ_DETAIL_NAME

// By what a container orders or hashes, unless it is what `containers.hpp` says.
template <class Used, class Usual> std::string by() {
    return std::is_same_v<Used, Usual> ? "" : std::string(" by ") + typeid(Used).name();
}
template <class T, class = void> struct order_name { static std::string value() { return ""; } };
template <class T> struct order_name<T, std::void_t<typename T::key_compare>> {
    static std::string value() { return by<typename T::key_compare, std::less<>>(); }
};
template <class T, class = void> struct hash_name { static std::string value() { return ""; } };
template <class T> struct hash_name<T, std::void_t<typename T::hasher, typename T::key_equal>> {
    static std::string value() {
        return by<typename T::hasher, hash<typename T::key_type>>() + by<typename T::key_equal, std::equal_to<>>();
    }
};

template <class T> std::string name_of() {
    if constexpr (!std::is_class_v<T> || is_array<T>::value || is_vas_ptr<T>::value || is_owner<T>::value)
        return typeid(T).name();
    else {
        const char *name = template_name<T>::value;
        return std::string(library_abi) + " " + (name != nullptr ? name : typeid(T).name()) +
               order_name<T>::value() + hash_name<T>::value();
    }
}

// A type's description, which has one address for each type and is filled when it is first asked for.
template <class T> struct description {
    static inline sj_type type = {};
    static inline std::string name;
    static inline std::vector<sj_field> fields;
    static inline bool is_begun = false;
};

template <class T> const sj_type *describe_rest();

// Numbers have the library's own descriptions; all others one of theirs. The lock is held.
template <class T> const sj_type *describe_locked() {
    if constexpr (std::is_const_v<T>)
        return describe_locked<std::remove_const_t<T>>();
    else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool> && sizeof(T) <= 8) {
        constexpr bool is_signed = std::is_signed_v<T> && !std::is_same_v<T, char>;
        switch (sizeof(T)) {
        case 1: return is_signed ? &sj_i8 : &sj_u8;
        case 2: return is_signed ? &sj_i16 : &sj_u16;
        case 4: return is_signed ? &sj_i32 : &sj_u32;
        default: return is_signed ? &sj_i64 : &sj_u64;
        }
    } else if constexpr (std::is_same_v<T, float>)
        return &sj_f32;
    else if constexpr (std::is_same_v<T, double>)
        return &sj_f64;
    else
        return describe_rest<T>();
}

template <class T> sj_field describe_field(const char *name, std::uint64_t offset) {
    if constexpr (is_array<T>::value)
        return {name, offset, describe_locked<typename is_array<T>::element>(), SJ_KIND_ARRAY,
                static_cast<std::uint32_t>(is_array<T>::count)};
    else if constexpr (is_vas_ptr<T>::value)
        return {name, offset, describe_locked<typename is_vas_ptr<T>::target>(), SJ_KIND_SHARED, 1};
    else if constexpr (is_owner<T>::value)
        return {name, offset, describe_locked<typename is_owner<T>::target>(), SJ_KIND_OWNED, 1};
    else
        return {name, offset, describe_locked<T>(), SJ_KIND_PLAIN, 1};
}

template <class... Parts> void describe_parts(std::vector<sj_field> &fields, std::tuple<Parts...> *) {
    (fields.push_back(describe_field<std::remove_const_t<Parts>>("part", 0)), ...);
}

template <class T> const sj_type *describe_rest() {
    using it = description<T>;
    if (it::is_begun)
        return &it::type;
    it::is_begun = true;
    it::type.size = sizeof(T);
    it::type.align = alignof(T);
    if constexpr (has_fields<T>::value) {
        constexpr auto list = sj_fields(static_cast<const T *>(nullptr));
        it::name = list.name;
        std::apply(
            [](const auto &...fields) {
                (it::fields.push_back(describe_field<typename std::decay_t<decltype(fields)>::type>(
                     fields.name, fields.offset)),
                 ...);
            },
            list.fields);
    } else {
        it::name = name_of<T>();
        // Where in it they are is the library's affair.
        if constexpr (is_array<T>::value || is_vas_ptr<T>::value || is_owner<T>::value)
            it::fields.push_back(describe_field<T>("it", 0));
        else if constexpr (parts_of<T>::known)
            describe_parts(it::fields, typename parts_of<T>::list());
        else if constexpr (has_allocator<T>::value)
            it::fields.push_back(describe_field<std::remove_const_t<typename T::value_type>>("element", 0));
    }
    it::type.name = it::name.c_str();
    it::type.fields = it::fields.empty() ? nullptr : it::fields.data();
    it::type.field_count = it::fields.size();
    return &it::type;
}

// Types share parts, whichever is described first, by whichever thread.
inline std::mutex describing;

// The description of a type that may be stored.
template <class T> const sj_type *describe() {
    static_assert(must_be_storable<T>(), "it cannot be stored");
    std::lock_guard<std::mutex> held(describing);
    return describe_locked<T>();
}

// The same as a text.
inline std::string type_text(const sj_type *type) {
    std::int64_t length = vas_type_text(type, nullptr, 0);
    if (length < 0)
        fail("describe a type");
    std::string text(static_cast<std::size_t>(length) + 1, '\0');
    vas_type_text(type, text.data(), text.size());
    text.pop_back();
    return text;
}

// What a program with this type says of data with another one.
inline std::string difference(const std::string &wanted, const std::string &found) {
    std::size_t line = 0;
    while (line < wanted.size() && line < found.size()) {
        std::size_t end = wanted.find('\n', line), other = found.find('\n', line);
        if (end != other || wanted.compare(line, end - line, found, line, end - line) != 0 ||
            end == std::string::npos)
            break;
        line = end + 1;
    }
    auto at = [line](const std::string &text) {
        std::string one = line < text.size() ? text.substr(line, text.find('\n', line) - line) : "nothing more";
        return "`" + one.substr(one.find_first_not_of(' ')) + "`";
    };
    return "the program has " + at(wanted) + " where it has " + at(found);
}

} // namespace detail
} // namespace sj

#endif
