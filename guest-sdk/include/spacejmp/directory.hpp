// Named objects of any types in one space, as Boost.Interprocess has them.
#ifndef SPACEJMP_DIRECTORY_HPP
#define SPACEJMP_DIRECTORY_HPP

#include <string>
#include <string_view>
#include <utility>

#include <spacejmp/containers.hpp>
#include <spacejmp/error.hpp>
#include <spacejmp/pointer.hpp>
#include <spacejmp/storable.hpp>
#include <spacejmp/type.hpp>

namespace sj {

// A root object that finds others by name:
//
//     auto space = sj::space<sj::directory>::open_or_create("things");
//     space.write([](sj::directory &d) { d.find_or_construct<sj::vector<double>>("samples").push_back(0.5); });
//
// Each has its own type, which is kept with it. It is destroyed by `destroy`, and not with the directory, which
// does not know how.
class directory {
  public:
    // Makes an object. Throws sj::error with EEXIST; as `make`.
    template <class T, class... Args> T &construct(std::string_view name, Args &&...args) {
        auto [place, is_new] = objects_.try_emplace(string(name));
        if (!is_new)
            detail::fail("construct '" + std::string(name) + "': there is an object of that name", EEXIST);
        try {
            place->second.type = detail::type_text(detail::describe<T>());
            T *object = make<T>(std::forward<Args>(args)...);
            place->second.object = object;
            return *object;
        } catch (...) {
            objects_.erase(place);
            throw;
        }
    }

    // The object, or null if there is none of that name. Throws wrong_type.
    template <class T> T *find(std::string_view name) { return find_in<T>(objects_, name); }
    template <class T> const T *find(std::string_view name) const { return find_in<T>(objects_, name); }

    template <class T, class... Args> T &find_or_construct(std::string_view name, Args &&...args) {
        T *found = find<T>(name);
        return found ? *found : construct<T>(name, std::forward<Args>(args)...);
    }

    // Destroys the object; whether there was one. Throws wrong_type.
    template <class T> bool destroy(std::string_view name) {
        T *found = find<T>(name);
        if (found == nullptr)
            return false;
        objects_.erase(objects_.find(name));
        sj::destroy(found);
        return true;
    }

    std::size_t size() const noexcept { return objects_.size(); }

  private:
    struct entry {
        void *object = nullptr;
        string type;
    };

    template <class T, class Objects> static T *find_in(Objects &objects, std::string_view name) {
        auto place = objects.find(name);
        if (place == objects.end())
            return nullptr;
        std::string wanted = detail::type_text(detail::describe<T>());
        if (place->second.type != std::string_view(wanted))
            throw wrong_type("find '" + std::string(name) + "': it is of another type: " +
                             detail::difference(wanted, std::string(place->second.type)));
        return static_cast<T *>(place->second.object);
    }

    map<string, entry> objects_;
};

// Its pointers lead to objects that `construct` has made in the same space.
template <> inline constexpr bool stores<directory> = true;

} // namespace sj

#endif
