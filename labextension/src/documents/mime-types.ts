/**
 * The language that an editor's MIME type names.
 */

/**
 * "rust" for text/x-rustsrc; null for plain text.
 *
 * The kernel knows more names of a language, and goes by the file's own name first.
 */
export function languageOfMimeType(mimeType: string): string | null {
  const name = mimeType
    .toLowerCase()
    .replace(/^\w+\/(?:x-|vnd\.)?/, '')
    .replace(/(?<=.)src$/, '');
  return name === 'plain' || name === '' ? null : name;
}
