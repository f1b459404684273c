//! What the derive macro is given: the attribute, the generic parameters, the representation.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::{DeriveInput, GenericParam, Generics, Ident, Type, parse_quote};

use crate::upgrade::{Versions, members};

/// The address spaces that an implementation is for.
pub(crate) enum Target {
    /// All of them, as a parameter of the implementation.
    Every(Ident),
    /// One, or a type parameter.
    Vas(Type),
}

impl Target {
    /// As the attribute says, and what it says about versions.
    pub(crate) fn of(item: &DeriveInput) -> syn::Result<(Target, Versions)> {
        let (mut vas, mut versions) = (None, Versions::default());
        for attribute in item.attrs.iter().filter(|found| found.path().is_ident("storable")) {
            attribute.parse_nested_meta(|meta| {
                let is = |name| meta.path.is_ident(name);
                let is_repeated = if is("vas") {
                    vas.replace(meta.value()?.parse::<Type>()?).is_some()
                } else if is("name") {
                    versions.name.replace(meta.value()?.parse()?).is_some()
                } else if is("version") {
                    versions.version.replace(meta.value()?.parse()?).is_some()
                } else if is("from") {
                    versions.from.replace(meta.value()?.parse()?).is_some()
                } else if is("with") {
                    versions.with.replace(meta.value()?.parse()?).is_some()
                } else if is("gone") {
                    !std::mem::replace(&mut versions.gone, members(&meta)?).is_empty()
                } else {
                    let message = "unknown option: there are `vas = BRAND`, `version = NUMBER`, \
                                   `from = EARLIER TYPE`, `with = FUNCTION`, `gone(FIELDS)` and `name = NAME`";
                    return Err(meta.error(message));
                };
                if is_repeated { Err(meta.error("this is given twice")) } else { Ok(()) }
            })?;
        }
        versions.check()?;
        Ok((vas.map_or_else(|| Target::Every(unused_name(item)), Target::Vas), versions))
    }

    /// How it is written in the implementation.
    pub(crate) fn path(&self) -> TokenStream {
        match self {
            Target::Every(name) => name.to_token_stream(),
            Target::Vas(vas) => vas.to_token_stream(),
        }
    }

    /// Adds the parameter for every address space, and the bounds of type parameters.
    pub(crate) fn bound_parameters(&self, generics: &mut Generics) {
        let vas = self.path();
        let mut names: Vec<_> = generics.type_params().map(|it| it.ident.clone()).collect();
        names.retain(|name| *name != vas.to_string());
        let clause = generics.make_where_clause();
        for name in names {
            clause.predicates.push(parse_quote!(#name: ::spacejmp::Storable<#vas>));
        }
        if let Target::Every(name) = self {
            let parameter: GenericParam = parse_quote!(#name: ::spacejmp::Brand);
            // After lifetimes, which must come first.
            let lifetimes = generics.lifetimes().count();
            generics.params.insert(lifetimes, parameter);
        }
    }
}

/// A name for a type parameter that occurs nowhere in the item: otherwise the parameter would
/// shadow what the user means by it.
fn unused_name(item: &DeriveInput) -> Ident {
    let mut name = String::from("__V");
    while stands_in(item.to_token_stream(), &name) {
        name.push('_');
    }
    format_ident!("{name}")
}

fn stands_in(tokens: TokenStream, name: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == name,
        TokenTree::Group(group) => stands_in(group.stream(), name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// How the representation attribute lays out an enum with fields.
pub(crate) enum Repr {
    /// Nothing is promised.
    Rust,
    /// Tag, of C's `int` if no type is given, then a union of the variants' fields.
    C(Option<Ident>),
    /// A union of structs that begin with the tag, an integer of this type.
    Integer(Ident),
}

impl Repr {
    /// As the attributes say; packed types are refused.
    pub(crate) fn of(item: &DeriveInput) -> syn::Result<Repr> {
        let (mut c, mut integer) = (false, None);
        for attribute in item.attrs.iter().filter(|found| found.path().is_ident("repr")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("packed") {
                    return Err(meta.error("a packed type cannot be `Storable`"));
                }
                if meta.input.peek(syn::token::Paren) {
                    // `align(N)`: the size and alignment in the layout show it.
                    let inner;
                    syn::parenthesized!(inner in meta.input);
                    let _: TokenStream = inner.parse()?;
                } else if meta.path.is_ident("C") {
                    c = true;
                } else if let Some(name) = meta.path.get_ident()
                    && name != "transparent"
                    && name != "Rust"
                {
                    integer = Some(name.clone());
                }
                Ok(())
            })?;
        }
        Ok(match (c, integer) {
            (true, integer) => Repr::C(integer),
            (false, Some(integer)) => Repr::Integer(integer),
            (false, None) => Repr::Rust,
        })
    }
}
