//! `#[derive(Storable)]`, `#[derive(CloneIn)]`, `#[derive(Concurrent)]` and `#[derive(VKey)]` of the crate `spacejmp`, which re-exports and documents them.
//!
//! - `input`: the source, checked
//! - `body`: the description of fields and variants
//! - `clone_in`: `#[derive(CloneIn)]`; `concurrent`: `#[derive(Concurrent)]`
//! - `key`: `#[derive(VKey)]`
//! - `upgrade`: how a value is made from that of an earlier type

mod body;
mod clone_in;
mod concurrent;
mod input;
mod key;
mod upgrade;

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_macro_input};

use input::Target;

/// Implements `Storable` for a struct or enum, after checking every field.
///
/// A type that holds pointers names their address space: `#[storable(vas = Genome)]`, or
/// `#[storable(vas = V)]` with a type parameter `V: Brand`. Without it the type may lie in every
/// address space. Other type parameters must be `Storable` themselves, which the
/// implementation asks for.
///
/// An enum whose variants have fields needs a layout that is promised: `#[repr(u8)]` or another
/// integer, or `#[repr(C)]`. Unions and packed types are refused.
///
/// A type that has changed says so: `#[storable(version = 2, from = v1::Notes<'v>)]`, with the earlier type, or a copy of
/// it, in a module of its own, or with `name = Notes` if it is called differently now. The value is made field by
/// field from those of the same names; of fields, `#[storable(new)]` or `#[storable(new = VALUE)]` says that it was
/// not there, `#[storable(was = OLD_NAME)]` that it was called something else, `#[storable(upgrade)]` that its type
/// has changed as well. `gone(OLD_FIELDS)` of the type, or of a variant, says which are given up; others must not be
/// left out. `with = FUNCTION` makes the value by a function `fn(Old, &At<V, Write>) -> Result<New, AllocError>`
/// instead. The book's page "Changing types" shows all of it.
///
/// **Deriving `Storable` makes every field public** to all programs that may write to the address
/// space, as deriving `Deserialize` does to the program that writes the text: another program with a type of
/// the same layout sets fields that are private here. What `unsafe` code relies on must not be such
/// a field.
///
/// Fields are described as the compiler sees them, whatever an attribute macro after the derive, or
/// a macro in type position, has made of them. The representation and the numbers of variants that
/// have fields are those in the source after the derive: a macro must not change these.
#[proc_macro_derive(Storable, attributes(storable))]
pub fn derive_storable(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    expand(&item).unwrap_or_else(|err| err.to_compile_error()).into()
}

/// Implements `CloneIn`: a deep copy in an address space, field by field. The address space is that of
/// `#[storable(vas = ...)]`. Type parameters must be `CloneIn` themselves.
#[proc_macro_derive(CloneIn, attributes(storable))]
pub fn derive_clone_in(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    clone_in::expand(&item).unwrap_or_else(|err| err.to_compile_error()).into()
}

/// Implements `Concurrent` for a struct, after checking every field: several programs use one value at the same time.
#[proc_macro_derive(Concurrent)]
pub fn derive_concurrent(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    concurrent::expand(&item).unwrap_or_else(|err| err.to_compile_error()).into()
}

/// Implements `VKey`: values are keys of maps and sets.
///
/// A type that owns nothing is looked up by a value of it; it needs `Hash` and `Ord`. One that names its address space,
/// `#[storable(vas = ...)]`, because it owns texts and the like, is a struct of one to four fields that are keys themselves, and
/// looked up by what they are looked up by: `map.get(&By(("abc", &7)))`, or, of one field, `map.get("abc")`.
#[proc_macro_derive(VKey, attributes(storable))]
pub fn derive_key(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    key::expand(&item).unwrap_or_else(|err| err.to_compile_error()).into()
}

fn expand(item: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let (target, versions) = Target::of(item)?;
    upgrade::check_parts(item, &versions)?;
    let [writer, parts, place, checker, which] =
        ["writer", "parts", "place", "checker", "Parts"].map(body::name);
    let (described, body) = body::describe(item, &target, &versions)?;
    let (more, upgrade) = upgrade::items(item, &target, &versions)?;
    let root = root_type(item);
    let name = &item.ident;
    let mut generics = item.generics.clone();
    let vas = target.path();
    target.bound_parameters(&mut generics);
    let (_, type_generics, _) = item.generics.split_for_impl();
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    Ok(quote! {
        // SAFETY: every part of the type is `Storable`, which the body checks.
        #[automatically_derived]
        unsafe impl #impl_generics ::spacejmp::Storable<#vas> for #name #type_generics #where_clause {
            fn layout(#writer: &mut ::spacejmp::layout::LayoutWriter) {
                #writer.describe::<Self>(#described, <Self as ::spacejmp::Storable<#vas>>::parts);
            }

            fn parts<#which: ::spacejmp::layout::Parts<#vas>>(#parts: &mut #which) {
                let _ = &#parts;
                #body
            }

            fn check_stored(
                #place: ::spacejmp::check::Place,
                #checker: &mut ::spacejmp::check::Checker<'_, #vas>,
            ) {
                #checker.parts_of::<Self>(#place);
            }

            #more
        }

        #upgrade

        #root
    })
}

/// That it can be a root object of old versions: of types that a lifetime, or none, makes whole.
fn root_type(item: &DeriveInput) -> Option<proc_macro2::TokenStream> {
    let (name, generics) = (&item.ident, &item.generics);
    if generics.where_clause.is_some() || generics.params.len() != generics.lifetimes().count() {
        return None;
    }
    let (of, during) = match generics.lifetimes().collect::<Vec<_>>()[..] {
        [] => (quote!(#name), quote!(#name)),
        [only] if only.bounds.is_empty() => {
            (quote!(#name<'static>), quote!(#name<'__spacejmp_visit>))
        }
        _ => return None,
    };
    Some(quote! {
        #[automatically_derived]
        impl ::spacejmp::RootType for #of {
            type During<'__spacejmp_visit> = #during;
        }
    })
}
