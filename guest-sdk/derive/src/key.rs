//! `#[derive(VKey)]`: what a key of one's own is looked up by.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, parse_quote};

use crate::body::name;
use crate::input::Target;

pub(crate) fn expand(item: &DeriveInput) -> syn::Result<TokenStream> {
    let (target, _) = Target::of(item)?;
    let mut generics = item.generics.clone();
    target.bound_parameters(&mut generics);
    match target {
        Target::Every(_) => Ok(by_itself(item, &target.path(), generics)),
        Target::Vas(_) => by_parts(item, &target.path(), generics),
    }
}

/// A type that owns nothing is looked up by a value of it.
fn by_itself(item: &DeriveInput, vas: &TokenStream, mut generics: syn::Generics) -> TokenStream {
    let name = &item.ident;
    let (_, type_generics, _) = item.generics.split_for_impl();
    let clause = generics.make_where_clause();
    for parameter in item.generics.type_params().map(|it| &it.ident) {
        clause.predicates.push(parse_quote!(#parameter: ::core::hash::Hash + ::core::cmp::Ord));
    }
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #impl_generics ::spacejmp::VKey<#vas> for #name #type_generics #where_clause {
            type Borrowed = Self;

            #[inline]
            fn borrowed<'__spacejmp_a, __SpacejmpMode: ::spacejmp::Mode>(
                &'__spacejmp_a self,
                _: &'__spacejmp_a ::spacejmp::At<#vas, __SpacejmpMode>,
            ) -> &'__spacejmp_a Self {
                self
            }
        }
    }
}

/// A type that owns texts and the like is looked up by what its fields are looked up by.
fn by_parts(
    item: &DeriveInput,
    vas: &TokenStream,
    mut generics: syn::Generics,
) -> syn::Result<TokenStream> {
    let Data::Struct(data) = &item.data else {
        let message = "only a struct that owns memory of an address space is looked up by its parts; \
                       implement `VKey` by hand";
        return Err(syn::Error::new(item.ident.span(), message));
    };
    let fields: Vec<_> = data.fields.iter().collect();
    let (lent, keys) = match fields.len() {
        1 => ("", ""),
        2 => ("Pair", "TwoParts"),
        3 => ("Triple", "ThreeParts"),
        4 => ("Quadruple", "FourParts"),
        _ => {
            let message = "a key of parts has one to four fields; implement `VKey` by hand, or \
                           group some of them in a struct that is a key itself";
            return Err(syn::Error::new(item.ident.span(), message));
        }
    };
    let clause = generics.make_where_clause();
    let own = item.generics.type_params().map(|it| &it.ident);
    for parameter in own.filter(|it| **it != vas.to_string()) {
        clause.predicates.push(parse_quote!(#parameter: ::spacejmp::VKey<#vas>));
    }
    let (name, at) = (&item.ident, name("at"));
    let (_, type_generics, _) = item.generics.split_for_impl();
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let lends = fields.iter().map(|field| {
        let of = &field.ty;
        quote_spanned!(of.span()=> <#of as ::spacejmp::VKey<#vas>>::Borrowed)
    });
    let lends: Vec<_> = lends.collect();
    let values = fields.iter().enumerate().map(|(index, field)| {
        let member = crate::upgrade::member(index, field);
        quote_spanned!(field.ty.span()=> ::spacejmp::VKey::<#vas>::borrowed(&self.#member, #at))
    });
    let values: Vec<_> = values.collect();
    let head = |result: &TokenStream| {
        quote! {
            fn borrowed<'__spacejmp_a, __SpacejmpMode: ::spacejmp::Mode>(
                &'__spacejmp_a self,
                #at: &'__spacejmp_a ::spacejmp::At<#vas, __SpacejmpMode>,
            ) -> &'__spacejmp_a #result
        }
    };
    if let ([lends], [value]) = (&lends[..], &values[..]) {
        let head = head(&quote!(Self::Borrowed));
        return Ok(quote! {
            #[automatically_derived]
            impl #impl_generics ::spacejmp::VKey<#vas> for #name #type_generics #where_clause {
                type Borrowed = #lends;

                #[inline]
                #head { #value }
            }
        });
    }
    let [lent, keys] = [lent, keys].map(|it| format_ident!("{it}").to_token_stream());
    let names = ["A", "B", "C", "D"].map(|it| format_ident!("{it}"));
    let names = &names[..fields.len()];
    let head = head(&quote!(Self::Borrowed));
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::spacejmp::collections::parts::#keys<#vas> for #name #type_generics
            #where_clause
        {
            #(type #names = #lends;)*

            fn parts<'__spacejmp_a, __SpacejmpMode: ::spacejmp::Mode>(
                &'__spacejmp_a self,
                #at: &'__spacejmp_a ::spacejmp::At<#vas, __SpacejmpMode>,
            ) -> (#(&'__spacejmp_a Self::#names,)*) {
                (#(#values,)*)
            }
        }

        #[automatically_derived]
        impl #impl_generics ::spacejmp::VKey<#vas> for #name #type_generics #where_clause {
            type Borrowed = ::spacejmp::collections::parts::#lent<#(#lends),*>;

            #head { ::spacejmp::collections::parts::#lent::of(self, #at) }
        }
    })
}
