//! The description of a type's fields and variants. Each field is asserted to be `Storable` by
//! the call that describes it, in the function's body and not in a bound: a recursive type would
//! be a condition of itself there, and the compiler's message would not point at the field.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DataEnum, DeriveInput, Field, Fields, Index, Variant};

use crate::input::{Repr, Target};

/// The body of `Storable::layout`.
pub(crate) fn describe(item: &DeriveInput, target: &Target) -> syn::Result<TokenStream> {
    let repr = Repr::of(item)?;
    let vas = target.path();
    let (kind, parts) = match &item.data {
        Data::Struct(data) => ("struct", struct_fields(&data.fields, &vas)),
        Data::Enum(data) => ("enum", variants(data, &repr, &vas)?),
        Data::Union(_) => {
            let message = "a union cannot be `Storable`: nothing says which field is valid; use \
                           an enum with #[repr(u8)]";
            return Err(syn::Error::new(item.ident.span(), message));
        }
    };
    let name = format!("{kind} {}", item.ident);
    Ok(quote! {
        writer.describe::<Self>(#name, |writer| {
            let _ = &writer;
            #parts
        });
    })
}

/// A field's name, as in the source or by number.
fn label(index: usize, field: &Field) -> (TokenStream, String) {
    match &field.ident {
        Some(name) => (name.to_token_stream(), name.to_string()),
        None => (Index::from(index).to_token_stream(), index.to_string()),
    }
}

fn struct_fields(fields: &Fields, vas: &TokenStream) -> TokenStream {
    let calls = fields.iter().enumerate().map(|(index, field)| {
        let (member, name) = label(index, field);
        let ty = &field.ty;
        let offset = quote!(::core::mem::offset_of!(Self, #member));
        quote_spanned!(ty.span()=> writer.field::<#ty, #vas>(#name, #offset);)
    });
    quote!(#(#calls)*)
}

fn variants(data: &DataEnum, repr: &Repr, vas: &TokenStream) -> syn::Result<TokenStream> {
    let with_fields = data.variants.iter().find(|variant| !variant.fields.is_empty());
    if let (Repr::Rust, Some(variant)) = (repr, with_fields) {
        let message = "an enum whose variants have fields needs a layout that is promised to be \
                       `Storable`: add #[repr(u8)] or #[repr(C)] to the enum";
        return Err(syn::Error::new(variant.ident.span(), message));
    }
    let tag = match repr {
        Repr::Integer(integer) | Repr::C(Some(integer)) => quote!(#integer),
        Repr::C(None) => quote!(::core::ffi::c_int),
        Repr::Rust => quote!(isize),
    };
    let start = payload_start(data, repr, &tag);
    let mut calls = Vec::new();
    let mut previous = None;
    for variant in &data.variants {
        let number = format_ident!("D_{}", variant.ident);
        let value = match (&variant.discriminant, previous) {
            (Some((_, value)), _) => quote!(#value),
            (None, None) => quote!(0),
            (None, Some(previous)) => quote!(#previous + 1),
        };
        calls.push(one_variant(variant, &number, &tag, &value, vas));
        previous = Some(number);
    }
    Ok(quote! {
        #[allow(unused_variables)]
        let start: usize = #start;
        #(#calls)*
    })
}

/// Where the fields of variants begin: behind the tag, with `repr(C)` aligned for all of them.
fn payload_start(data: &DataEnum, repr: &Repr, tag: &TokenStream) -> TokenStream {
    let types = data.variants.iter().flat_map(|variant| &variant.fields).map(|field| &field.ty);
    match repr {
        Repr::C(_) => quote! {{
            let mut align = 1;
            #(if ::core::mem::align_of::<#types>() > align {
                align = ::core::mem::align_of::<#types>();
            })*
            ::core::mem::size_of::<#tag>().next_multiple_of(align)
        }},
        Repr::Rust | Repr::Integer(_) => quote!(::core::mem::size_of::<#tag>()),
    }
}

fn one_variant(
    variant: &Variant,
    number: &proc_macro2::Ident,
    tag: &TokenStream,
    value: &TokenStream,
    vas: &TokenStream,
) -> TokenStream {
    let name = variant.ident.to_string();
    let fields = variant.fields.iter().enumerate().map(|(index, field)| {
        let (_, name) = label(index, field);
        let ty = &field.ty;
        quote_spanned! {ty.span()=>
            let offset = offsets.next::<#ty>();
            writer.field::<#ty, #vas>(#name, offset);
        }
    });
    quote! {
        #[allow(non_upper_case_globals)]
        const #number: #tag = #value;
        writer.variant(#name, #number as i128, |writer| {
            let _ = &writer;
            #[allow(unused_variables, unused_mut)]
            let mut offsets = ::spacejmp::layout::VariantOffsets::new(start);
            #(#fields)*
        });
    }
}
