/** Typed access to the members of a parsed JSON object; every error names path, value and reason. */
import type { AppError } from '../../common/app-error.ts';
import { storageError } from '../errors.ts';

export class Members {
  private constructor(
    private readonly values: Record<string, unknown>,
    private readonly path: string,
  ) {}

  /** @throws CONFIG when `value` is no object */
  static of(value: unknown, path: string): Members {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw storageError('CONFIG', { path: path || '(whole text)', value: typeof value, reason: 'must be an object' });
    }
    return new Members(value as Record<string, unknown>, path);
  }

  has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  /** CONFIG error about member `name`. */
  wrong(name: string, reason: string): AppError {
    return storageError('CONFIG', { path: this.pathOf(name), value: this.get(name), reason });
  }

  /** As `wrong`, about a member that may hold a credential. */
  wrongSecret(name: string, reason: string): AppError {
    return storageError('CONFIG', { path: this.pathOf(name), value: '***', reason });
  }

  names(): string[] {
    return Object.keys(this.values);
  }

  object(name: string): Members {
    if (!this.has(name)) throw this.wrong(name, 'is required');
    return Members.of(this.get(name), this.pathOf(name));
  }

  /** null when absent or JSON null. */
  optionalObject(name: string): Members | null {
    return this.has(name) && this.get(name) !== null ? this.object(name) : null;
  }

  text(name: string, fallback: string): string {
    return this.typed(name, 'string', fallback);
  }

  /** A text that must be there and not empty. */
  required(name: string): string {
    const value = this.text(name, '');
    if (value === '') throw this.wrong(name, 'is required and must not be empty');
    return value;
  }

  /** A text whose value never appears in an error; empty when absent. */
  secret(name: string): string {
    const value = this.get(name) ?? '';
    if (typeof value !== 'string') throw this.wrongSecret(name, 'must be a string');
    return value;
  }

  /** An array of at most `max` objects; empty when absent or JSON null. */
  objects(name: string, max: number): Members[] {
    const value = this.get(name) ?? [];
    if (!Array.isArray(value)) throw this.wrongSecret(name, 'must be an array of objects');
    if (value.length > max) throw this.wrongSecret(name, `must have at most ${max} items`);
    return value.map((item: unknown, i) => Members.of(item, `${this.pathOf(name)}[${i}]`));
  }

  texts(name: string): string[] {
    const value = this.get(name) ?? [];
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
      throw this.wrong(name, 'must be an array of strings');
    }
    return value as string[];
  }

  flag(name: string, fallback: boolean): boolean {
    return this.typed(name, 'boolean', fallback);
  }

  /** A whole number 0..max. */
  whole(name: string, fallback: number, max: number): number {
    const value = this.typed(name, 'number', fallback);
    if (!Number.isSafeInteger(value) || value < 0 || value > max) {
      throw this.wrong(name, `must be a whole number from 0 to ${max}`);
    }
    return value;
  }

  /** One of `choices`; without `fallback` it is required. */
  choice<T extends string>(name: string, choices: readonly T[], fallback?: T): T {
    const value = this.get(name) ?? fallback;
    const found = choices.find((choice) => choice === value);
    if (found === undefined) throw this.wrong(name, `must be one of ${choices.map((c) => `"${c}"`).join(', ')}`);
    return found;
  }

  private typed<T extends string | boolean | number>(name: string, type: string, fallback: T): T {
    const value = this.get(name) ?? fallback;
    if (typeof value !== type) throw this.wrong(name, `must be a ${type}`);
    return value as T;
  }

  private get(name: string): unknown {
    return Object.hasOwn(this.values, name) ? this.values[name] : undefined;
  }

  private pathOf(name: string): string {
    return this.path === '' ? name : `${this.path}.${name}`;
  }
}
