// The list of books of `c-linked/shelf.c` and `c_shelf`, in C++: `shelf add TITLE PAGES`, `shelf list`,
// `shelf text`: the description of the type.
#include <spacejmp.hpp>

#include <cstdio>
#include <cstring>

struct Book {
    sj::unique<Book> next;
    sj::vas_ptr<Book> like;
    std::uint32_t pages = 0;
    std::uint8_t title[20] = {};
};
SJ_FIELDS(Book, next, like, pages, title)

struct Shelf {
    std::uint64_t count = 0;
    sj::unique<Book> first;
};
SJ_FIELDS(Shelf, count, first)

static void add(Shelf &shelf, const char *title, unsigned pages) {
    auto book = sj::make_unique<Book>();
    std::strncpy(reinterpret_cast<char *>(book->title), title, sizeof book->title - 1);
    book->pages = pages;
    book->like = shelf.first.get();
    book->next = std::move(shelf.first);
    shelf.first = std::move(book);
    shelf.count++;
}

static void list(const Shelf &shelf) {
    std::printf("%llu books\n", static_cast<unsigned long long>(shelf.count));
    for (const Book *book = shelf.first.get(); book; book = book->next.get())
        std::printf("%s, %u pages%s%s\n", reinterpret_cast<const char *>(book->title), book->pages,
                    book->like ? ", like " : "",
                    book->like ? reinterpret_cast<const char *>(book->like->title) : "");
}

int main(int argc, char **argv) try {
    const std::string command = argc > 1 ? argv[1] : "";
    if (command == "text")
        return std::fputs(sj::detail::type_text(sj::detail::describe<Shelf>()).c_str(), stdout) < 0;
    auto shelf = sj::space<Shelf>::open("shelf");
    if (command == "add" && argc == 4)
        shelf.write([&](Shelf &it) { add(it, argv[2], static_cast<unsigned>(std::atoi(argv[3]))); });
    else
        shelf.read(list);
    return 0;
} catch (const std::exception &caught) {
    std::fprintf(stderr, "%s\n", caught.what());
    return 1;
}
