/**
 * Languages by the tables that a kernel sends with its hello.
 */
import type { KernelClient } from './client';
import type { ILanguages } from './protocol';

/** What a comment begins with, and a regular expression for a line below which a new line is completed. */
export type IAfterEnter = ILanguages['after_enter'][string];

/** What the questions below are answered from. */
type Client = Pick<KernelClient, 'hello' | 'status'>;

/** The name that the kernel has for a language that is also called `name`: "bash" for "shell". */
export function canonicalLanguage(name: string, languages: ILanguages | undefined): string {
  const lower = name.toLowerCase();
  const magics = new Map(Object.entries(languages?.magics ?? {}));
  return magics.get(lower) ?? lower;
}

/** Whether the kernel's model knows a language; undefined for a model whose languages are not listed. */
export function knowsLanguage({ hello, status }: Client, name: string): boolean | undefined {
  const models = new Map(Object.entries(hello?.languages?.models ?? {}));
  const known = models.get(status?.model ?? hello?.model ?? '');
  return (
    known && (known.includes('*') || known.includes(canonicalLanguage(name, hello?.languages)))
  );
}

/** The language of a text file by its name; `otherwise` where that does not tell. */
export function languageOfFile(
  path: string,
  languages: ILanguages | undefined,
  otherwise: string
): string {
  const name = path.slice(path.lastIndexOf('/') + 1).toLowerCase();
  const ending = name.includes('.') ? name.slice(name.lastIndexOf('.') + 1) : '';
  const endings = new Map(Object.entries(languages?.endings ?? {}));
  const found = endings.get(ending) ?? 'text';
  return found === 'text' ? otherwise : found;
}

/** The language of a cell: below a magic of another language that one, else its document's. */
export function languageOfCell(
  source: string,
  own: string,
  languages: ILanguages | undefined
): string {
  const magic = /^\s*%%([^\s%]\S*)([^\n]*)/.exec(source);
  const name = magic?.[1].toLowerCase() ?? '';
  if (!magic || !languages || languages.own.includes(name)) {
    return own;
  }
  if (languages.files.includes(name)) {
    return languageOfFile(magic[2].trim().split(/\s+/).pop() ?? '', languages, 'text');
  }
  return new Map(Object.entries(languages.magics)).get(name) ?? own;
}

/** The rules for a new line in a language; undefined where the kernel has none for it. */
export function afterEnterRules(
  language: string,
  languages: ILanguages | undefined
): IAfterEnter | undefined {
  const rules = new Map(Object.entries(languages?.after_enter ?? {}));
  return rules.get(canonicalLanguage(language, languages));
}
