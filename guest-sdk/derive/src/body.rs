//! The description of a type's fields and variants.
//!
//! No field's type is copied from the source: an attribute macro after the derive changes the type
//! after it was read, and a macro in type position may expand to a different one each time. What is
//! described is what the compiler finds in the value: each field is reached by a pattern that names
//! all fields, in a function that is never called, and its type is taken from there, without
//! anything that could convert it. That the type is `Storable` is asserted by the call that
//! describes it, in the function's body and not in a bound: a recursive type would there be a
//! condition of itself, and the compiler's message would not point at the field.
//!
//! Names that are introduced begin with `__spacejmp`, so that they cannot be a constant of the
//! user's.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DataEnum, DeriveInput, Field, Fields, Ident, Index, Variant};

use crate::input::{Repr, Target};
use crate::upgrade::Versions;

/// A name that is introduced.
pub(crate) fn name(name: &str) -> Ident {
    Ident::new(&format!("__spacejmp_{name}"), Span::mixed_site())
}

/// What a type is called in its layout, and the body of `Storable::parts`, whose argument is called `__spacejmp_parts`.
pub(crate) fn describe(
    item: &DeriveInput,
    target: &Target,
    versions: &Versions,
) -> syn::Result<(String, TokenStream)> {
    let repr = Repr::of(item)?;
    let vas = target.path();
    let (kind, parts) = match &item.data {
        Data::Struct(data) => ("struct", struct_fields(&data.fields, &vas)),
        Data::Enum(data) => ("enum", variants(item, data, &repr, &vas)?),
        Data::Union(_) => {
            let message = "a union cannot be `Storable`: nothing says which field is valid; use \
                           an enum with #[repr(u8)]";
            return Err(syn::Error::new(item.ident.span(), message));
        }
    };
    let mut name = format!("{kind} {}", versions.name.as_ref().unwrap_or(&item.ident));
    // The first version is what stores without versions have.
    match versions.number()? {
        1 => {}
        number => name.push_str(&format!(" version {number}")),
    }
    Ok((name, parts))
}

/// A field's name, as in the source or by number.
pub(crate) fn label(index: usize, field: &Field) -> (TokenStream, String) {
    match &field.ident {
        Some(name) => (name.to_token_stream(), name.to_string()),
        None => (Index::from(index).to_token_stream(), index.to_string()),
    }
}

/// `{ a: _, b: it, c: _ }`: a pattern of all fields, with a name for one of them.
pub(crate) fn pattern(fields: &Fields, wanted: Option<usize>) -> TokenStream {
    let it = name("it");
    let parts = fields.iter().enumerate().map(|(index, field)| {
        let (member, _) = label(index, field);
        if Some(index) == wanted { quote!(#member: #it) } else { quote!(#member: _) }
    });
    quote!({ #(#parts),* })
}

fn struct_fields(fields: &Fields, vas: &TokenStream) -> TokenStream {
    let [writer, it] = ["parts", "it"].map(name);
    let calls = fields.iter().enumerate().map(|(index, field)| {
        let (member, name) = label(index, field);
        let pattern = pattern(fields, Some(index));
        let of = quote_spanned!(field.ty.span()=> |Self #pattern: &Self| #it);
        let offset = quote!(::core::mem::offset_of!(Self, #member));
        quote_spanned! {field.ty.span()=>
            ::spacejmp::layout::Parts::<#vas>::field_of::<Self, _>(#writer, #name, #offset, #of);
        }
    });
    // For a struct without fields, too: after the derive it may have some.
    let pattern = pattern(fields, None);
    quote! {
        let _ = |Self #pattern: &Self| ();
        #(#calls)*
    }
}

fn variants(
    item: &DeriveInput,
    data: &DataEnum,
    repr: &Repr,
    vas: &TokenStream,
) -> syn::Result<TokenStream> {
    let with_fields = data.variants.iter().find(|variant| !variant.fields.is_empty());
    if let (Repr::Rust, Some(variant)) = (repr, with_fields) {
        let message = "an enum whose variants have fields needs a layout that is promised to be \
                       `Storable`: add #[repr(u8)] or #[repr(C)] to the enum";
        return Err(syn::Error::new(variant.ident.span(), message));
    }
    let tag = match repr {
        Repr::Integer(integer) | Repr::C(Some(integer)) => quote!(::core::primitive::#integer),
        Repr::C(None) => quote!(::core::ffi::c_int),
        Repr::Rust => quote!(::core::primitive::isize),
    };
    let [writer, start, it, number] = ["parts", "start", "it", "number"].map(name);
    let first = payload_start(data, repr, &tag);
    // Without fields the compiler provides the numbers itself.
    let is_plain = data.variants.iter().all(|variant| matches!(variant.fields, Fields::Unit));
    let mut calls = Vec::new();
    let mut value = quote!(0);
    for variant in &data.variants {
        if let Some((_, given)) = &variant.discriminant {
            value = quote!(#given);
        }
        let name = &variant.ident;
        calls.push(if is_plain {
            quote!(let #number = Self::#name as ::core::primitive::i128;)
        } else {
            quote!(let #number: #tag = #value;)
        });
        calls.push(one_variant(variant, vas));
        value = quote!(#number + 1);
    }
    let all = data.variants.iter().map(|variant| {
        let (name, pattern) = (&variant.ident, pattern(&variant.fields, None));
        quote!(Self::#name #pattern => ())
    });
    // Without a representation an enum without fields is as large as its number, unless it is made larger.
    let bytes = match repr {
        Repr::Rust if is_aligned(item) => quote!(::core::option::Option::None),
        Repr::Rust => quote!(::core::option::Option::Some(::core::mem::size_of::<Self>())),
        Repr::C(_) | Repr::Integer(_) => {
            quote!(::core::option::Option::Some(::core::mem::size_of::<#tag>()))
        }
    };
    Ok(quote! {
        let _ = |#it: &Self| match *#it { #(#all),* };
        ::spacejmp::layout::Parts::<#vas>::tag::<Self>(#writer, #bytes);
        #[allow(unused_variables)]
        let #start: ::core::primitive::usize = #first;
        #(#calls)*
    })
}

/// Whether an attribute makes it larger than it would be.
fn is_aligned(item: &DeriveInput) -> bool {
    let mut is_aligned = false;
    for attribute in item.attrs.iter().filter(|found| found.path().is_ident("repr")) {
        // What cannot be parsed was refused before.
        let _ = attribute.parse_nested_meta(|meta| {
            is_aligned |= meta.path.is_ident("align");
            if meta.input.peek(syn::token::Paren) {
                let inner;
                syn::parenthesized!(inner in meta.input);
                let _: TokenStream = inner.parse()?;
            }
            Ok(())
        });
    }
    is_aligned
}

/// A function that is never called, from the enum to one of its fields.
fn way_to(variant: &Variant, index: usize) -> TokenStream {
    let (it, pattern) = (name("it"), pattern(&variant.fields, Some(index)));
    let name = &variant.ident;
    quote! {
        |#it: &Self| match #it {
            Self::#name #pattern => ::core::option::Option::Some(#it),
            #[allow(unreachable_patterns)]
            _ => ::core::option::Option::None,
        }
    }
}

/// Where the fields of variants begin: after the tag, with `repr(C)` aligned for all of them.
fn payload_start(data: &DataEnum, repr: &Repr, tag: &TokenStream) -> TokenStream {
    let ways = data
        .variants
        .iter()
        .flat_map(|variant| (0..variant.fields.len()).map(|index| way_to(variant, index)));
    match repr {
        Repr::C(_) => quote! {
            ::core::mem::size_of::<#tag>()
                .next_multiple_of([1, #(::spacejmp::layout::align_of_field(#ways)),*]
                .into_iter().fold(1, ::core::cmp::Ord::max))
        },
        Repr::Rust | Repr::Integer(_) => quote!(::core::mem::size_of::<#tag>()),
    }
}

fn one_variant(variant: &Variant, vas: &TokenStream) -> TokenStream {
    let [writer, offsets, start, number] = ["parts", "offsets", "start", "number"].map(name);
    let (value, name) = (self::name("value"), variant.ident.to_string());
    let fields = variant.fields.iter().enumerate().map(|(index, field)| {
        let (_, name) = label(index, field);
        let way = way_to(variant, index);
        let of = quote_spanned!(field.ty.span()=> #way);
        quote_spanned! {field.ty.span()=>
            ::spacejmp::layout::Parts::<#vas>::field_of_variant::<Self, _>(
                #writer, #name, &mut #offsets, #of
            );
        }
    });
    quote! {
        let #value = #number as ::core::primitive::i128;
        ::spacejmp::layout::Parts::<#vas>::variant(#writer, #name, #value, |#writer| {
            let _ = &#writer;
            #[allow(unused_variables, unused_mut)]
            let mut #offsets = ::spacejmp::layout::VariantOffsets::new(#start);
            #(#fields)*
        });
    }
}
