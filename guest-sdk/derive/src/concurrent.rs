//! `#[derive(Concurrent)]`: structs whose fields several programs use at the same time.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, parse_quote};

use crate::body::{label, name, pattern};

pub(crate) fn expand(item: &DeriveInput) -> syn::Result<TokenStream> {
    let Data::Struct(data) = &item.data else {
        let message = "only structs are `Concurrent`: what variant an enum has cannot change together with its fields";
        return Err(syn::Error::new(item.ident.span(), message));
    };
    if let Some(lifetime) = item.generics.lifetimes().next() {
        let message = "a `Concurrent` type has no lifetimes: it holds no addresses";
        return Err(syn::Error::new(lifetime.span(), message));
    }
    let (layouts, it) = (name("layouts"), name("it"));
    // By a pattern that names all fields, as for `Storable`: what the compiler finds is described.
    let fields = data.fields.iter().enumerate().map(|(index, field)| {
        let (member, label) = label(index, field);
        let pattern = pattern(&data.fields, Some(index));
        quote_spanned! { field.ty.span() =>
            #layouts.field_of::<Self, _>(
                #label,
                ::core::mem::offset_of!(Self, #member),
                |Self #pattern: &Self| #it,
            );
        }
    });
    // For a struct without fields, too: after the derive it may have some.
    let all = pattern(&data.fields, None);
    let mut generics = item.generics.clone();
    let parameters: Vec<_> = generics.type_params().map(|it| it.ident.clone()).collect();
    let clause = generics.make_where_clause();
    for parameter in parameters {
        clause.predicates.push(parse_quote!(#parameter: ::spacejmp::Concurrent));
    }
    let ident = &item.ident;
    let label = ident.to_string();
    let (_, type_generics, _) = item.generics.split_for_impl();
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    Ok(quote! {
        // SAFETY: every field is `Concurrent`, which the body checks.
        #[automatically_derived]
        unsafe impl #impl_generics ::spacejmp::Concurrent for #ident #type_generics #where_clause {
            fn layout(#layouts: &mut ::spacejmp::Layouts<'_>) {
                #layouts.structure::<Self>(#label, |#layouts| {
                    let _ = (&#layouts, |Self #all: &Self| ());
                    #(#fields)*
                });
            }
        }
    })
}
