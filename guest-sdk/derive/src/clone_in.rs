//! `#[derive(CloneIn)]`: a deep copy, field by field.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Fields, parse_quote};

use crate::body::name;
use crate::input::Target;

pub(crate) fn expand(item: &DeriveInput) -> syn::Result<TokenStream> {
    let (target, _) = Target::of(item)?;
    let (vas, at) = (target.path(), name("at"));
    let body = match &item.data {
        Data::Struct(data) => {
            let (pattern, value) = parts(&data.fields, &vas);
            quote! {
                let Self #pattern = self;
                ::core::result::Result::Ok(Self #value)
            }
        }
        Data::Enum(data) if data.variants.is_empty() => quote!(match *self {}),
        Data::Enum(data) => {
            let arms = data.variants.iter().map(|variant| {
                let (pattern, value) = parts(&variant.fields, &vas);
                let name = &variant.ident;
                quote!(Self::#name #pattern => Self::#name #value)
            });
            quote!(::core::result::Result::Ok(match self { #(#arms),* }))
        }
        Data::Union(_) => {
            let message = "a union cannot be `CloneIn`: nothing says which field is valid";
            return Err(syn::Error::new(item.ident.span(), message));
        }
    };
    let mut generics = item.generics.clone();
    let parameters: Vec<_> = generics.type_params().map(|it| it.ident.clone()).collect();
    target.bound_parameters(&mut generics);
    let clause = generics.make_where_clause();
    for parameter in parameters.iter().filter(|it| **it != vas.to_string()) {
        clause.predicates.push(parse_quote!(#parameter: ::spacejmp::CloneIn<#vas>));
    }
    let name = &item.ident;
    let (_, type_generics, _) = item.generics.split_for_impl();
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::spacejmp::CloneIn<#vas> for #name #type_generics #where_clause {
            fn clone_in(&self, #at: &::spacejmp::At<#vas, ::spacejmp::Write>)
                -> ::core::result::Result<Self, ::spacejmp::AllocError>
            {
                let _ = #at;
                #body
            }
        }
    })
}

/// The pattern of all fields, and the value of their copies.
fn parts(fields: &Fields, vas: &TokenStream) -> (TokenStream, TokenStream) {
    let at = name("at");
    let (mut patterns, mut values) = (Vec::new(), Vec::new());
    for (index, field) in fields.iter().enumerate() {
        let member = crate::upgrade::member(index, field);
        let it = name(&format!("field_{index}"));
        patterns.push(quote!(#member: #it));
        values.push(quote_spanned! {field.ty.span()=>
            #member: ::spacejmp::CloneIn::<#vas>::clone_in(#it, #at)?
        });
    }
    (quote!({ #(#patterns),* }), quote!({ #(#values),* }))
}
