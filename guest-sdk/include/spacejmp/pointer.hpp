// Pointers between stored objects, and objects of their own in a space.
#ifndef SPACEJMP_POINTER_HPP
#define SPACEJMP_POINTER_HPP

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>

#include <spacejmp/allocator.hpp>

// Whether vas_ptr looks at each use whether the thread is in the space of its object: two comparisons.
#ifndef SJ_CHECKED
#ifdef NDEBUG
#define SJ_CHECKED 0
#else
#define SJ_CHECKED 1
#endif
#endif

namespace sj {
namespace detail {

// The addresses of the segment whose objects the calling thread may use.
struct range {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;

    bool has(const void *address, std::size_t bytes) const noexcept {
        auto at = reinterpret_cast<std::uintptr_t>(address);
        return at >= begin && at < end && end - at >= bytes;
    }
};

inline thread_local range here;

} // namespace detail

// A pointer to an object of the same space, or null: what a stored object has instead of a raw pointer,
// which could lead into the memory of a program that has ended. It owns nothing.
template <class T> class vas_ptr {
  public:
    constexpr vas_ptr() noexcept = default;
    constexpr vas_ptr(std::nullptr_t) noexcept {}

    // Throws std::invalid_argument if the object is not in the space that the thread is in.
    vas_ptr(T *object) : object_(object) {
        if (object != nullptr && !detail::here.has(object, sizeof(T)))
            throw std::invalid_argument("sj::vas_ptr: the object is not in the space that the thread is in");
    }

    T *get() const noexcept {
#if SJ_CHECKED
        if (object_ != nullptr && !detail::here.has(object_, sizeof(T))) {
            std::fprintf(stderr, "spacejmp: a vas_ptr is used outside of the space of its object, %p\n",
                         static_cast<const void *>(object_));
            std::abort();
        }
#endif
        return object_;
    }
    T &operator*() const noexcept { return *get(); }
    T *operator->() const noexcept { return get(); }
    explicit operator bool() const noexcept { return object_ != nullptr; }

    friend bool operator==(vas_ptr a, vas_ptr b) noexcept { return a.object_ == b.object_; }
    friend bool operator!=(vas_ptr a, vas_ptr b) noexcept { return a.object_ != b.object_; }

  private:
    T *object_ = nullptr;
};

// Makes an object in the space that the thread is in. Throws as sj::allocator, and what its constructor
// throws; then nothing is left of it.
template <class T, class... Args> T *make(Args &&...args) {
    void *memory = detail::allocate(sizeof(T), alignof(T));
    try {
        return ::new (memory) T(std::forward<Args>(args)...);
    } catch (...) {
        vas_free(memory);
        throw;
    }
}

// Destroys what `make` has made. Null is nothing.
template <class T> void destroy(T *object) noexcept {
    if (object != nullptr) {
        object->~T();
        vas_free(object);
    }
}

template <class T> struct deleter {
    void operator()(T *object) const noexcept { destroy(object); }
};

// The owner of an object of the same space.
template <class T> using unique = std::unique_ptr<T, deleter<T>>;

template <class T, class... Args> unique<T> make_unique(Args &&...args) {
    return unique<T>(make<T>(std::forward<Args>(args)...));
}

} // namespace sj

#endif
