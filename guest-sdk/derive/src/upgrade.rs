//! How a value is made from that of an earlier type: what the attribute `from` and those of fields and
//! variants say.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Data, DeriveInput, Expr, Field, Fields, Ident, Index, LitInt, Member, Path, PathArguments,
    Token, Type,
};

use crate::body::name;
use crate::input::Target;

/// What the attribute of the type says beside `vas`.
#[derive(Default)]
pub(crate) struct Versions {
    /// `name = Notes`: what the type is called in its layout.
    pub(crate) name: Option<Ident>,
    /// `version = 2`.
    pub(crate) version: Option<LitInt>,
    /// `from = v1::Notes`.
    pub(crate) from: Option<Type>,
    /// `with = path`: a function, instead of field by field.
    pub(crate) with: Option<Path>,
    /// `gone(a, b)`: fields of the earlier type that are given up.
    pub(crate) gone: Vec<Member>,
}

impl Versions {
    /// The number; 1 where nothing is said.
    pub(crate) fn number(&self) -> syn::Result<u32> {
        self.version.as_ref().map_or(Ok(1), LitInt::base10_parse)
    }

    /// Whether what is said fits together.
    pub(crate) fn check(&self) -> syn::Result<()> {
        let number = self.number()?;
        match (&self.version, &self.from) {
            (Some(version), _) if number == 0 => {
                Err(syn::Error::new_spanned(version, "versions begin with 1"))
            }
            (_, Some(from)) if number < 2 => {
                let message =
                    "a type that is made from an earlier one has a version: `version = 2`";
                Err(syn::Error::new_spanned(from, message))
            }
            _ => Ok(()),
        }?;
        let without_from = match (&self.from, &self.with, self.gone.first()) {
            (None, Some(with), _) => Some(with.to_token_stream()),
            (None, None, Some(gone)) => Some(gone.to_token_stream()),
            _ => None,
        };
        match (without_from, &self.with, self.gone.first()) {
            (Some(what), ..) => {
                let message = "`with` and `gone` are about `from = EARLIER TYPE`, which is missing";
                Err(syn::Error::new_spanned(what, message))
            }
            (None, Some(_), Some(gone)) => {
                let message = "`with` makes the value from all that was there; `gone` says nothing";
                Err(syn::Error::new_spanned(gone, message))
            }
            _ => Ok(()),
        }
    }
}

/// What the attribute of a field, or of a variant, says.
#[derive(Default)]
struct Origin {
    /// `was = old_name`.
    was: Option<Member>,
    /// `new`, `new = expression`: it was not there.
    new: Option<TokenStream>,
    /// `upgrade`: its type has changed as well.
    upgrade: bool,
    /// `gone(a, b)`, of a variant.
    gone: Vec<Member>,
}

impl Origin {
    fn of(attributes: &[syn::Attribute]) -> syn::Result<Origin> {
        let mut origin = Origin::default();
        for attribute in attributes.iter().filter(|found| found.path().is_ident("storable")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("was") {
                    origin.was = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("new") {
                    origin.new = Some(match meta.input.peek(Token![=]) {
                        true => meta.value()?.parse::<Expr>()?.into_token_stream(),
                        false => quote!(::core::default::Default::default()),
                    });
                } else if meta.path.is_ident("upgrade") {
                    origin.upgrade = true;
                } else if meta.path.is_ident("gone") {
                    origin.gone = members(&meta)?;
                } else {
                    let message = "unknown option: there are `new`, `new = VALUE`, `was = OLD_NAME`, \
                                   `upgrade`, and `gone(OLD_FIELDS)` of variants";
                    return Err(meta.error(message));
                }
                Ok(())
            })?;
            if origin.new.is_some() && (origin.was.is_some() || origin.upgrade) {
                let message = "what is new was not there: `was` and `upgrade` do not go with `new`";
                return Err(syn::Error::new_spanned(attribute, message));
            }
        }
        Ok(origin)
    }

    fn says_something(&self) -> bool {
        self.was.is_some() || self.new.is_some() || self.upgrade || !self.gone.is_empty()
    }
}

/// `(a, b)` of an option.
pub(crate) fn members(meta: &syn::meta::ParseNestedMeta<'_>) -> syn::Result<Vec<Member>> {
    let inner;
    syn::parenthesized!(inner in meta.input);
    let list = Punctuated::<Member, Token![,]>::parse_terminated(&inner)?;
    Ok(list.into_iter().collect())
}

/// Fields and variants must not say where they come from if the type does not, or if a function makes it.
pub(crate) fn check_parts(item: &DeriveInput, versions: &Versions) -> syn::Result<()> {
    let is_used = versions.from.is_some() && versions.with.is_none();
    let check = |attributes: &[syn::Attribute], what: &dyn ToTokens| {
        if !is_used && Origin::of(attributes)?.says_something() {
            let message =
                "this is about `#[storable(from = EARLIER TYPE)]` of the type, without `with`";
            return Err(syn::Error::new_spanned(what, message));
        }
        Ok(())
    };
    let fields =
        |fields: &Fields| fields.iter().try_for_each(|field| check(&field.attrs, &field.ty));
    match &item.data {
        Data::Struct(data) => fields(&data.fields),
        Data::Enum(data) => data.variants.iter().try_for_each(|variant| {
            check(&variant.attrs, &variant.ident)?;
            fields(&variant.fields)
        }),
        Data::Union(_) => Ok(()),
    }
}

/// The items of `Storable` that find and take an earlier version, and the implementation of `UpgradeFrom`.
pub(crate) fn items(
    item: &DeriveInput,
    target: &Target,
    versions: &Versions,
) -> syn::Result<(TokenStream, TokenStream)> {
    let number = versions.number()?;
    let version = quote!(const VERSION: ::core::primitive::u32 = #number;);
    let Some(from) = &versions.from else { return Ok((version, TokenStream::new())) };
    let vas = target.path();
    let [wanted, stored, before, at] = ["wanted", "stored", "before", "at"].map(name);
    let methods = quote! {
        #version

        fn earlier(#wanted: ::spacejmp::layout::Fingerprint)
            -> ::core::option::Option<::spacejmp::upgrade::EarlierForm>
        {
            const {
                ::core::assert!(
                    <Self as ::spacejmp::Storable<#vas>>::VERSION
                        > <#from as ::spacejmp::Storable<#vas>>::VERSION,
                    "a type has a higher version than the one that it is made from",
                );
            }
            ::spacejmp::upgrade::EarlierForm::find::<#from, #vas>(#wanted)
        }

        fn from_earlier(#stored: ::spacejmp::upgrade::StoredRoot<'_, #vas>)
            -> ::core::option::Option<::core::result::Result<Self, ::spacejmp::AllocError>>
        {
            let #at = #stored.at();
            let #before = #stored.take::<#from>()?;
            ::core::option::Option::Some(#before.and_then(|#before| {
                <Self as ::spacejmp::UpgradeFrom<#vas, #from>>::upgrade_from(#before, #at)
            }))
        }
    };
    let body = match &versions.with {
        Some(function) => quote!(#function(#before, #at)),
        None => by_parts(item, &vas, from, &versions.gone)?,
    };
    let name = &item.ident;
    let mut generics = item.generics.clone();
    target.bound_parameters(&mut generics);
    let (_, type_generics, _) = item.generics.split_for_impl();
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let implementation = quote! {
        #[automatically_derived]
        impl #impl_generics ::spacejmp::UpgradeFrom<#vas, #from> for #name #type_generics #where_clause {
            fn upgrade_from(
                #before: #from,
                #at: &::spacejmp::At<#vas, ::spacejmp::Write>,
            ) -> ::core::result::Result<Self, ::spacejmp::AllocError> {
                let _ = #at;
                #body
            }
        }
    };
    Ok((methods, implementation))
}

/// Field by field, and variant by variant.
fn by_parts(
    item: &DeriveInput,
    vas: &TokenStream,
    from: &Type,
    gone: &[Member],
) -> syn::Result<TokenStream> {
    // Messages about fields that are forgotten are to name them, and to be shown where the type is.
    let span = from.span();
    let from = bare(from)?;
    let before = Ident::new(&name("before").to_string(), Span::mixed_site().located_at(span));
    match &item.data {
        Data::Struct(data) => {
            let (pattern, value) = parts(&data.fields, gone, vas, span)?;
            Ok(quote! {
                let #from #pattern = #before;
                ::core::result::Result::Ok(Self #value)
            })
        }
        Data::Enum(data) => {
            let mut arms = Vec::new();
            for variant in &data.variants {
                let origin = Origin::of(&variant.attrs)?;
                if origin.new.is_some() {
                    continue;
                }
                let (pattern, value) = parts(&variant.fields, &origin.gone, vas, span)?;
                let name = &variant.ident;
                let was = origin.was.unwrap_or_else(|| Member::Named(name.clone()));
                arms.push(quote!(#from::#was #pattern => Self::#name #value));
            }
            Ok(quote!(::core::result::Result::Ok(match #before { #(#arms),* })))
        }
        Data::Union(_) => Ok(TokenStream::new()),
    }
}

/// The pattern of what was there, all of it, and the value of what is there now.
fn parts(
    fields: &Fields,
    gone: &[Member],
    vas: &TokenStream,
    span: Span,
) -> syn::Result<(TokenStream, TokenStream)> {
    let at = name("at");
    let (mut patterns, mut values) = (Vec::new(), Vec::new());
    for (index, field) in fields.iter().enumerate() {
        let origin = Origin::of(&field.attrs)?;
        let member = member(index, field);
        if let Some(value) = origin.new {
            values.push(quote!(#member: #value));
            continue;
        }
        let was = origin.was.unwrap_or_else(|| member.clone());
        let here = Span::mixed_site().located_at(field.ty.span());
        let it = Ident::new(&name(&format!("field_{index}")).to_string(), here);
        patterns.push(quote!(#was: #it));
        values.push(if origin.upgrade {
            quote_spanned!(here=> #member: ::spacejmp::UpgradeFrom::<#vas, _>::upgrade_from(#it, #at)?)
        } else {
            quote!(#member: #it)
        });
    }
    patterns.extend(gone.iter().map(|member| quote!(#member: _)));
    Ok((quote_spanned!(span=> { #(#patterns),* }), quote!({ #(#values),* })))
}

/// How a field is named, in patterns and values.
pub(crate) fn member(index: usize, field: &Field) -> Member {
    match &field.ident {
        Some(name) => Member::Named(name.clone()),
        None => Member::Unnamed(Index::from(index)),
    }
}

/// The type's path without its parameters, as patterns have it.
fn bare(from: &Type) -> syn::Result<Path> {
    let Type::Path(path) = from else {
        return Err(syn::Error::new_spanned(from, "the earlier type is a struct or an enum"));
    };
    let mut path = path.path.clone();
    if let Some(last) = path.segments.last_mut() {
        last.arguments = PathArguments::None;
    }
    Ok(path)
}
